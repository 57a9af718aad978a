// SPDX-License-Identifier: Apache-2.0
// The tables of the paged operators, read on the host and checked.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::ops::cpu {

/// Sequences whose tokens lie in pages.
struct PagedSequences {
  std::vector<std::int64_t> starts;
  std::vector<std::int64_t> lengths; ///< of keys
  at::Tensor page_table_BM;
};

/// Reads and checks the tables: every sequence with new tokens must hold them within its length,
/// and the pages that it uses must exist. Throws otherwise.
PagedSequences checked_paged_sequences(
    const at::Tensor& k_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    std::vector<std::int64_t> lengths,
    std::int64_t num_tokens);

/// The same where `starts` are on the host already.
PagedSequences checked_paged_sequences(
    const at::Tensor& k_pages,
    const at::Tensor& page_table_BM,
    std::vector<std::int64_t> starts,
    std::vector<std::int64_t> lengths);

/// First positions of sequences on the host. Throws when one is negative.
std::vector<std::int64_t> checked_positions(const at::Tensor& first_positions_B);

/// An integer vector on the host.
std::vector<std::int64_t> host_values(const at::Tensor& values_B);

} // namespace baton::ops::cpu
