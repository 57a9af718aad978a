// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/paged_pieces.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/ATen.h>

#include "baton/ops/cpu/paged_attend.h"

namespace baton::ops::cpu {
namespace {

constexpr std::int64_t kSplitKeys = 128; // keys whose sums are made on their own, then merged
constexpr std::int64_t kHeads = 8;       // key heads that few queries pass over together
constexpr std::int64_t kBlockRows = 32;  // query rows that pass over the keys together

PagedRows rows_of(
    const at::Tensor& pages,
    const PagedSequences& sequences,
    std::int64_t sequence,
    std::int64_t first_head) {
  const auto* data = static_cast<const char*>(pages.const_data_ptr());
  return {
      data + first_head * pages.stride(2) * pages.element_size(),
      sequences.page_table_BM.const_data_ptr<std::int32_t>() +
          sequence * sequences.page_table_BM.size(1),
      pages.size(1),
      pages.stride(0),
      pages.stride(1),
      pages.stride(2)};
}

} // namespace

PagedPlan
make_paged_plan(const PagedSequences& sequences, std::int64_t num_key_heads, std::int64_t group) {
  PagedPlan plan;
  const std::int64_t block_tokens = std::max<std::int64_t>(1, kBlockRows / group);
  for (std::size_t b = 0; b < sequences.lengths.size(); ++b) {
    const std::int64_t start = sequences.starts[b];
    const std::int64_t num_new = sequences.starts[b + 1] - start;
    const std::int64_t past = sequences.lengths[b] - num_new;
    for (std::int64_t first = 0; first < num_new; first += block_tokens) {
      const std::int64_t num_tokens = std::min(block_tokens, num_new - first);
      const std::int64_t splits = (past + first + num_tokens + kSplitKeys - 1) / kSplitKeys;
      const bool few = num_new <= block_tokens;
      const std::int64_t step = few ? 1 : splits;
      const std::int64_t heads = few ? kHeads : 1;
      for (std::int64_t head = 0; head < num_key_heads; head += heads) {
        const std::int64_t num_heads = std::min(heads, num_key_heads - head);
        plan.blocks.push_back(static_cast<std::int64_t>(plan.pieces.size()));
        for (std::int64_t split = 0; split < splits; split += step) {
          plan.pieces.push_back(
              {static_cast<std::int64_t>(b),
               head,
               num_heads,
               start + first,
               num_tokens,
               split,
               split + step,
               plan.num_rows});
          plan.num_rows += num_heads * num_tokens * group;
        }
      }
    }
  }
  plan.blocks.push_back(static_cast<std::int64_t>(plan.pieces.size()));
  return plan;
}

template <class Sum>
void RowSums<Sum>::add(const RowSums& other, std::int64_t num_rows) const {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    if (other.sum_R[row] == 0) {
      continue;
    }
    const Sum maximum = std::max(maximum_R[row], other.maximum_R[row]);
    const Sum here = std::exp(maximum_R[row] - maximum);
    const Sum there = std::exp(other.maximum_R[row] - maximum);
    maximum_R[row] = maximum;
    sum_R[row] = sum_R[row] * here + other.sum_R[row] * there;
    for (std::int64_t i = row * channels; i < (row + 1) * channels; ++i) {
      out_RP[i] = out_RP[i] * here + other.out_RP[i] * there;
    }
  }
}

template <class Sum>
PagedPieces<Sum>::PagedPieces(
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    PagedSequences sequences,
    std::int64_t num_heads)
    : k_pages_(k_pages),
      v_pages_(v_pages),
      sequences_(std::move(sequences)),
      num_heads_(num_heads),
      group_(num_heads / k_pages.size(2)),
      channels_(k_pages.size(3)),
      plan_(make_paged_plan(sequences_, k_pages.size(2), group_)),
      storage_(plan_.num_rows, channels_),
      q_KTGP_(num_tokens() * num_heads * channels_) {}

template <class Sum>
template <class T>
void PagedPieces<Sum>::set_query(
    std::int64_t token,
    std::int64_t head,
    const T* values,
    double scale) {
  const std::int64_t row = (head / group_ * num_tokens() + token) * group_ + head % group_;
  std::transform(values, values + channels_, q_KTGP_.data() + row * channels_, [&](T value) {
    return static_cast<Sum>(value) * static_cast<Sum>(scale);
  });
}

template <class Sum>
void PagedPieces<Sum>::attend_split(
    const PagedPiece& piece,
    const std::vector<std::int64_t>& visible_R,
    std::int64_t split,
    const RowSums<Sum>& sums) const {
  const auto num_rows = static_cast<std::int64_t>(visible_R.size());
  const std::int64_t head_stride = num_tokens() * group_ * channels_;
  const Sum* q =
      q_KTGP_.data() + piece.first_head * head_stride + piece.first_token * group_ * channels_;
  const PagedTask<Sum> task{
      rows_of(k_pages_, sequences_, piece.sequence, piece.first_head),
      rows_of(v_pages_, sequences_, piece.sequence, piece.first_head),
      split * kSplitKeys,
      std::min((split + 1) * kSplitKeys, visible_R.back()),
      piece.num_heads,
      num_rows,
      channels_,
      q,
      head_stride,
      visible_R.data(),
      sums.out_RP,
      sums.maximum_R,
      sums.sum_R};
  paged_attend(task, k_pages_.scalar_type());
}

template <class Sum>
void PagedPieces<Sum>::attend(std::int64_t piece_index) {
  const PagedPiece& piece = plan_.pieces[piece_index];
  const RowSums<Sum> total = storage_.at(piece.row);
  const std::int64_t num_rows = piece.num_tokens * group_;
  const std::int64_t end = sequences_.starts[piece.sequence + 1];
  std::vector<std::int64_t> visible_R(num_rows);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    visible_R[row] =
        sequences_.lengths[piece.sequence] - (end - piece.first_token) + row / group_ + 1;
  }
  attend_split(piece, visible_R, piece.first_split, total);
  if (piece.first_split + 1 < piece.last_split) {
    RowSumStorage<Sum> storage(piece.num_heads * num_rows, channels_);
    for (std::int64_t split = piece.first_split + 1; split < piece.last_split; ++split) {
      attend_split(piece, visible_R, split, storage.at(0));
      total.add(storage.at(0), piece.num_heads * num_rows);
    }
  }
}

template <class Sum>
template <class T>
void PagedPieces<Sum>::merge(std::int64_t block, T* out_THP) {
  const PagedPiece& piece = plan_.pieces[plan_.blocks[block]];
  const std::int64_t rows_a_head = piece.num_tokens * group_;
  const std::int64_t num_rows = piece.num_heads * rows_a_head;
  const RowSums<Sum> total = storage_.at(piece.row);
  for (std::int64_t i = plan_.blocks[block] + 1; i < plan_.blocks[block + 1]; ++i) {
    total.add(storage_.at(plan_.pieces[i].row), num_rows);
  }
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const std::int64_t token = piece.first_token + row % rows_a_head / group_;
    const std::int64_t head = (piece.first_head + row / rows_a_head) * group_ + row % group_;
    T* out = out_THP + (token * num_heads_ + head) * channels_;
    const Sum inverse = Sum(1) / total.sum_R[row];
    for (std::int64_t i = 0; i < channels_; ++i) {
      out[i] = static_cast<T>(total.out_RP[row * channels_ + i] * inverse);
    }
  }
}

template class PagedPieces<float>;
template void PagedPieces<float>::set_query(std::int64_t, std::int64_t, const float*, double);
template void
PagedPieces<float>::set_query(std::int64_t, std::int64_t, const c10::BFloat16*, double);
template void PagedPieces<float>::merge(std::int64_t, float*);
template void PagedPieces<float>::merge(std::int64_t, c10::BFloat16*);

template class PagedPieces<double>;
template void PagedPieces<double>::set_query(std::int64_t, std::int64_t, const double*, double);
template void PagedPieces<double>::merge(std::int64_t, double*);

} // namespace baton::ops::cpu
