// SPDX-License-Identifier: Apache-2.0
// Attention over pages on the CPU: pieces of queries and keys, then the merging of their sums.
#include "baton/ops/paged_attention.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "baton/ops/cpu/each_item.h"
#include "baton/ops/cpu/page_tables.h"
#include "baton/ops/cpu/paged_pieces.h"

namespace baton::ops::cpu {
namespace {

template <class T, class Sum>
void set_queries(PagedPieces<Sum>& pieces, const at::Tensor& q_THP, double scale) {
  const at::Tensor q = q_THP.stride(2) == 1 ? q_THP : q_THP.contiguous();
  const T* from = q.const_data_ptr<T>();
  const std::int64_t heads = q.size(1);
  constexpr std::int64_t kGrain = 16384; // values worth a thread
  at::parallel_for(
      0,
      q.size(0) * heads,
      std::max<std::int64_t>(1, kGrain / q.size(2)),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const std::int64_t token = row / heads;
          const std::int64_t head = row % heads;
          pieces.set_query(token, head, from + token * q.stride(0) + head * q.stride(1), scale);
        }
      });
}

template <class T>
at::Tensor run(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    PagedSequences sequences,
    double scale) {
  at::Tensor out_THP = at::empty(q_THP.sizes(), q_THP.options());
  T* out = out_THP.mutable_data_ptr<T>();
  if (out_THP.numel() == 0) {
    return out_THP;
  }
  PagedPieces<at::opmath_type<T>> pieces(k_pages, v_pages, std::move(sequences), q_THP.size(1));
  set_queries<T>(pieces, q_THP, scale);
  for_each_item(pieces.num_pieces(), [&](std::int64_t piece) { pieces.attend(piece); });
  for_each_item(pieces.num_blocks(), [&](std::int64_t block) { pieces.merge(block, out); });
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
  PagedSequences sequences = checked_paged_sequences(
      k_pages, page_table_BM, starts_B1, host_values(kv_lengths_B), q_THP.size(0));
  const at::Tensor k = with_contiguous_channels(k_pages);
  const at::Tensor v = with_contiguous_channels(v_pages);
  switch (q_THP.scalar_type()) {
    case at::kDouble:
      return run<double>(q_THP, k, v, std::move(sequences), scale);
    case at::kFloat:
      return run<float>(q_THP, k, v, std::move(sequences), scale);
    case at::kBFloat16:
      return run<at::BFloat16>(q_THP, k, v, std::move(sequences), scale);
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
