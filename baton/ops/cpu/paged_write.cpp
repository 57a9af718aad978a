// SPDX-License-Identifier: Apache-2.0
// Stores new keys and values into their pages.
#include "baton/ops/cpu/paged_write.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/base/layout.h"
#include "baton/ops/cpu/page_tables.h"
#include "baton/ops/paged_attention.h"

namespace baton::ops::cpu {
namespace {

/// Copies the rows [Hk, P] of `count` tokens into a page. Rows that lie side by side, as they do
/// where a step writes one, are copied without a tensor of each.
void write_tokens(
    at::Tensor& pages,
    std::int64_t page,
    std::int64_t offset,
    const at::Tensor& rows_THP,
    std::int64_t token,
    std::int64_t count) {
  const std::int64_t values = rows_THP.size(1) * rows_THP.size(2);
  if (!has_dense_tokens(pages) || !has_dense_tokens(rows_THP) ||
      pages.scalar_type() != rows_THP.scalar_type()) {
    pages[page].narrow(0, offset, count).copy_(rows_THP.narrow(0, token, count));
    return;
  }
  const auto bytes = static_cast<std::int64_t>(pages.element_size());
  char* to = token_in_page(pages, page, offset);
  const auto* from =
      static_cast<const char*>(rows_THP.const_data_ptr()) + token * rows_THP.stride(0) * bytes;
  for (std::int64_t i = 0; i < count; ++i) {
    std::copy_n(
        from + i * rows_THP.stride(0) * bytes, values * bytes, to + i * pages.stride(1) * bytes);
  }
}

void paged_write_(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B) {
  check_pages(k_pages, v_pages, page_table_BM, starts_B1, first_positions_B, k_THP);
  TORCH_CHECK(
      k_THP.sizes() == v_THP.sizes() && k_THP.size(1) == k_pages.size(2),
      "k and v must both be [T, Hk, P] of the pages ",
      k_pages.sizes(),
      ", got ",
      k_THP.sizes(),
      " and ",
      v_THP.sizes());
  const std::vector<std::int64_t> starts = checked_starts(starts_B1, k_THP.size(0));
  const std::vector<std::int64_t> first_positions = checked_positions(first_positions_B);
  std::vector<std::int64_t> lengths;
  for (std::size_t b = 0; b < first_positions.size(); ++b) {
    lengths.push_back(first_positions[b] + starts[b + 1] - starts[b]);
  }
  const PagedSequences sequences =
      checked_paged_sequences(k_pages, page_table_BM, starts_B1, std::move(lengths), k_THP.size(0));
  const std::int64_t page_size = k_pages.size(1);
  const std::int64_t width = page_table_BM.size(1);
  const std::int32_t* table = sequences.page_table_BM.const_data_ptr<std::int32_t>();
  for (std::size_t b = 0; b < first_positions.size(); ++b) {
    std::int64_t token = starts[b];
    while (token < starts[b + 1]) {
      const std::int64_t position = first_positions[b] + token - starts[b];
      const std::int64_t offset = position % page_size;
      const std::int64_t count = std::min(page_size - offset, starts[b + 1] - token);
      const std::int64_t page = table[static_cast<std::int64_t>(b) * width + position / page_size];
      write_tokens(k_pages, page, offset, k_THP, token, count);
      write_tokens(v_pages, page, offset, v_THP, token, count);
      token += count;
    }
  }
}

} // namespace

bool has_dense_tokens(const at::Tensor& tokens) {
  const std::int64_t d = tokens.dim();
  return tokens.stride(d - 1) == 1 && tokens.stride(d - 2) == tokens.size(d - 1);
}

char* token_in_page(const at::Tensor& pages, std::int64_t page, std::int64_t offset) {
  return static_cast<char*>(pages.data_ptr()) +
         (page * pages.stride(0) + offset * pages.stride(1)) *
             static_cast<std::int64_t>(pages.element_size());
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("paged_write_", &paged_write_);
}

} // namespace baton::ops::cpu
