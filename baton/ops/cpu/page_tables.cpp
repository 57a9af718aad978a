// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/page_tables.h"

#include <utility>

#include <ATen/ATen.h>

#include "baton/base/layout.h"

namespace baton::ops::cpu {

PagedSequences checked_paged_sequences(
    const at::Tensor& k_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    std::vector<std::int64_t> lengths,
    std::int64_t num_tokens) {
  return checked_paged_sequences(
      k_pages, page_table_BM, checked_starts(starts_B1, num_tokens), std::move(lengths));
}

PagedSequences checked_paged_sequences(
    const at::Tensor& k_pages,
    const at::Tensor& page_table_BM,
    std::vector<std::int64_t> starts,
    std::vector<std::int64_t> lengths) {
  PagedSequences sequences{std::move(starts), std::move(lengths), page_table_BM.contiguous()};
  const std::int64_t page_size = k_pages.size(1);
  const std::int64_t width = page_table_BM.size(1);
  const std::int32_t* table = sequences.page_table_BM.const_data_ptr<std::int32_t>();
  for (std::size_t b = 0; b < sequences.lengths.size(); ++b) {
    const std::int64_t num_new = sequences.starts[b + 1] - sequences.starts[b];
    if (num_new == 0) {
      continue;
    }
    TORCH_CHECK(
        sequences.lengths[b] >= num_new && sequences.lengths[b] <= width * page_size,
        "a sequence's length must hold its new tokens and fit its pages: sequence ",
        b,
        " has ",
        sequences.lengths[b],
        " tokens, ",
        num_new,
        " of them new, and ",
        width,
        " pages of ",
        page_size);
    for (std::int64_t i = 0; i * page_size < sequences.lengths[b]; ++i) {
      const std::int64_t page = table[static_cast<std::int64_t>(b) * width + i];
      TORCH_CHECK(
          page >= 0 && page < k_pages.size(0),
          "page ",
          i,
          " of sequence ",
          b,
          " must be in [0, ",
          k_pages.size(0),
          "), got ",
          page);
    }
  }
  return sequences;
}

std::vector<std::int64_t> checked_positions(const at::Tensor& first_positions_B) {
  std::vector<std::int64_t> positions = host_values(first_positions_B);
  for (std::size_t b = 0; b < positions.size(); ++b) {
    TORCH_CHECK(
        positions[b] >= 0, "positions must not be negative: ", positions[b], " of sequence ", b);
  }
  return positions;
}

std::vector<std::int64_t> host_values(const at::Tensor& values_B) {
  const at::Tensor dense = values_B.contiguous();
  if (dense.scalar_type() == at::kInt) {
    const auto* data = dense.const_data_ptr<std::int32_t>();
    return {data, data + dense.size(0)};
  }
  const at::Tensor wide = dense.to(at::kLong);
  const auto* data = wide.const_data_ptr<std::int64_t>();
  return {data, data + wide.size(0)};
}

} // namespace baton::ops::cpu
