// SPDX-License-Identifier: Apache-2.0
// Attention over pages on the CPU: cuts queries and keys into pieces and merges their sums.
#include "baton/ops/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "baton/ops/cpu/each_item.h"
#include "baton/ops/cpu/page_tables.h"
#include "baton/ops/cpu/paged_attend.h"

namespace baton::ops::cpu {
namespace {

constexpr std::int64_t kSplitKeys = 128; // keys whose sums are made on their own, then merged
constexpr std::int64_t kHeads = 8;       // key heads that few queries pass over together
constexpr std::int64_t kBlockRows = 32;  // query rows that pass over the keys together

/// Query rows of some key heads, over some splits of the keys.
struct Piece {
  std::int64_t sequence;
  std::int64_t first_head; ///< of the key heads
  std::int64_t num_heads;
  std::int64_t first_token; ///< within the packed queries
  std::int64_t num_tokens;
  std::int64_t first_split;
  std::int64_t last_split;
  std::int64_t row; ///< of its sums among all pieces' sums
};

/// Pieces of one block of queries stand side by side, in the order of their splits. A sequence with
/// few queries gets a piece a split with several heads, whose rows lie side by side in memory; one
/// with many has enough blocks of queries, whose pieces take all splits of one head. Both add in
/// the same order, so the choice is not seen in the results.
struct Plan {
  std::vector<Piece> pieces;
  std::vector<std::int64_t> blocks; ///< first piece of each block of queries, and the end
  std::int64_t num_rows = 0;
};

Plan make_plan(const PagedSequences& sequences, std::int64_t num_key_heads, std::int64_t group) {
  Plan plan;
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

/// Sums of exp(score - maximum) * value, of R rows.
template <class Sum>
struct RowSums {
  Sum* out_RP;
  Sum* maximum_R;
  Sum* sum_R;
  std::int64_t channels;

  /// Brings both to the larger maximum and adds. Rows that `other` did not see stay as they are.
  void add(const RowSums& other, std::int64_t num_rows) const {
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
};

/// Storage for the sums of many rows.
template <class Sum>
class RowSumStorage {
 public:
  RowSumStorage(std::int64_t num_rows, std::int64_t channels)
      : channels_(channels), out_(num_rows * channels), maximum_(num_rows), sum_(num_rows) {}

  RowSums<Sum> at(std::int64_t row) {
    return {out_.data() + row * channels_, maximum_.data() + row, sum_.data() + row, channels_};
  }

 private:
  std::int64_t channels_;
  std::vector<Sum> out_;
  std::vector<Sum> maximum_;
  std::vector<Sum> sum_;
};

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

/// What all pieces read.
template <class Sum>
struct PagedInputs {
  const Sum* q_KTGP; ///< dense: key heads, tokens, their query heads, channels; scaled
  std::int64_t num_tokens;
  std::int64_t group;
  const at::Tensor& k_pages;
  const at::Tensor& v_pages;
  const PagedSequences& sequences;

  /// The sums of one piece over one split of the keys.
  void attend_split(
      const Piece& piece,
      const std::vector<std::int64_t>& visible_R,
      std::int64_t split,
      const RowSums<Sum>& sums) const {
    const auto num_rows = static_cast<std::int64_t>(visible_R.size());
    const std::int64_t head_stride = num_tokens * group * sums.channels;
    const Sum* q =
        q_KTGP + piece.first_head * head_stride + piece.first_token * group * sums.channels;
    const PagedTask<Sum> task{
        rows_of(k_pages, sequences, piece.sequence, piece.first_head),
        rows_of(v_pages, sequences, piece.sequence, piece.first_head),
        split * kSplitKeys,
        std::min((split + 1) * kSplitKeys, visible_R.back()),
        piece.num_heads,
        num_rows,
        sums.channels,
        q,
        head_stride,
        visible_R.data(),
        sums.out_RP,
        sums.maximum_R,
        sums.sum_R};
    paged_attend(task, k_pages.scalar_type());
  }

  /// The sums of one piece, split by split.
  void attend(const Piece& piece, const RowSums<Sum>& total) const {
    const std::int64_t num_rows = piece.num_tokens * group;
    const std::int64_t end = sequences.starts[piece.sequence + 1];
    std::vector<std::int64_t> visible_R(num_rows);
    for (std::int64_t row = 0; row < num_rows; ++row) {
      visible_R[row] =
          sequences.lengths[piece.sequence] - (end - piece.first_token) + row / group + 1;
    }
    attend_split(piece, visible_R, piece.first_split, total);
    if (piece.first_split + 1 < piece.last_split) {
      RowSumStorage<Sum> storage(piece.num_heads * num_rows, total.channels);
      for (std::int64_t split = piece.first_split + 1; split < piece.last_split; ++split) {
        attend_split(piece, visible_R, split, storage.at(0));
        total.add(storage.at(0), piece.num_heads * num_rows);
      }
    }
  }
};

/// Queries [Hk, T, group, P] in the type of the sums.
template <class T, class Sum = at::opmath_type<T>>
std::vector<Sum> scaled_queries(const at::Tensor& q_THP, std::int64_t group, double scale) {
  const at::Tensor q = q_THP.stride(2) == 1 ? q_THP : q_THP.contiguous();
  const T* from = q.const_data_ptr<T>();
  const std::int64_t tokens = q.size(0);
  const std::int64_t channels = q.size(2);
  std::vector<Sum> scaled(q.numel());
  constexpr std::int64_t kGrain = 16384; // values worth a thread
  at::parallel_for(
      0,
      q.size(1) * tokens,
      std::max<std::int64_t>(1, kGrain / channels),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) { // (key head, token, member of its group)
          const std::int64_t token = row / group % tokens;
          const std::int64_t head = row / group / tokens * group + row % group;
          const T* values = from + token * q.stride(0) + head * q.stride(1);
          std::transform(values, values + channels, scaled.data() + row * channels, [&](T value) {
            return static_cast<Sum>(value) * static_cast<Sum>(scale);
          });
        }
      });
  return scaled;
}

template <class T>
at::Tensor run(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const PagedSequences& sequences,
    double scale) {
  using Sum = at::opmath_type<T>;
  const std::int64_t channels = q_THP.size(2);
  const std::int64_t num_heads = q_THP.size(1);
  const std::int64_t group = num_heads / k_pages.size(2);
  at::Tensor out_THP = at::empty(q_THP.sizes(), q_THP.options());
  T* out = out_THP.mutable_data_ptr<T>();
  if (out_THP.numel() == 0) {
    return out_THP;
  }
  const Plan plan = make_plan(sequences, k_pages.size(2), group);
  RowSumStorage<Sum> storage(plan.num_rows, channels);
  const std::vector<Sum> q_KTGP = scaled_queries<T>(q_THP, group, scale);
  const PagedInputs<Sum> inputs{q_KTGP.data(), q_THP.size(0), group, k_pages, v_pages, sequences};
  for_each_item(static_cast<std::int64_t>(plan.pieces.size()), [&](std::int64_t i) {
    inputs.attend(plan.pieces[i], storage.at(plan.pieces[i].row));
  });
  for_each_item(static_cast<std::int64_t>(plan.blocks.size()) - 1, [&](std::int64_t block) {
    const Piece& piece = plan.pieces[plan.blocks[block]];
    const std::int64_t rows_a_head = piece.num_tokens * group;
    const std::int64_t num_rows = piece.num_heads * rows_a_head;
    const RowSums<Sum> total = storage.at(piece.row);
    for (std::int64_t i = plan.blocks[block] + 1; i < plan.blocks[block + 1]; ++i) {
      total.add(storage.at(plan.pieces[i].row), num_rows);
    }
    for (std::int64_t row = 0; row < num_rows; ++row) {
      const std::int64_t token = piece.first_token + row % rows_a_head / group;
      const std::int64_t head = (piece.first_head + row / rows_a_head) * group + row % group;
      const Sum inverse = Sum(1) / total.sum_R[row];
      for (std::int64_t i = 0; i < channels; ++i) {
        out[(token * num_heads + head) * channels + i] =
            static_cast<T>(total.out_RP[row * channels + i] * inverse);
      }
    }
  });
  return out_THP;
}

at::Tensor with_contiguous_channels(const at::Tensor& pages) {
  return pages.stride(3) == 1 ? pages : pages.contiguous();
}

at::Tensor paged_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double scale) {
  check_pages(k_pages, v_pages, page_table_BM, starts_B1, kv_lengths_B, q_THP);
  TORCH_CHECK(
      q_THP.scalar_type() == k_pages.scalar_type(),
      "queries and pages must have one dtype, got ",
      q_THP.scalar_type(),
      " and ",
      k_pages.scalar_type());
  const PagedSequences sequences = checked_paged_sequences(
      k_pages, page_table_BM, starts_B1, host_values(kv_lengths_B), q_THP.size(0));
  const at::Tensor k = with_contiguous_channels(k_pages);
  const at::Tensor v = with_contiguous_channels(v_pages);
  switch (q_THP.scalar_type()) {
    case at::kDouble:
      return run<double>(q_THP, k, v, sequences, scale);
    case at::kFloat:
      return run<float>(q_THP, k, v, sequences, scale);
    case at::kBFloat16:
      return run<at::BFloat16>(q_THP, k, v, sequences, scale);
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(
          false, "paged_attention takes float64, float32 or bfloat16, got ", q_THP.scalar_type());
  }
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("paged_attention", &paged_attention);
}

} // namespace baton::ops::cpu
