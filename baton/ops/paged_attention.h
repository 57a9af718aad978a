// SPDX-License-Identifier: Apache-2.0
// Attention over keys and values that lie in pages of a cache.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Causal attention of new tokens over all tokens of their sequences, those before them in the
/// cache included. Inference only: refuses inputs that need a gradient.
///
/// q [T, Hq, P]; k_pages and v_pages [pages, page_size, Hk, P]; one dtype for q and pages (fp64,
/// fp32, bf16); Hq is a multiple of Hk. Token i of sequence b lies in page `page_table_BM`[b, i /
/// page_size] (int32, entries past the sequence's end are not read). `starts_B1` int32 [B + 1]: the
/// queries of each sequence; `kv_lengths_B` int32 [B]: its length, new tokens included, which
/// `paged_write_` has stored before. Returns q's shape and dtype; sums are fp32 (fp64 for fp64). On
/// the CPU equal bits for any number of threads, and for a query whatever other sequences and
/// queries come along. Throws when shapes or dtypes disagree and, on the CPU, for lengths and pages
/// out of range.
at::Tensor paged_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double scale);

/// Stores the keys and values of new tokens into their pages, in place, in the pages' dtype.
///
/// k and v [T, Hk, P]; token i of sequence b has position first_positions_B[b] + i (int32 [B]).
void paged_write_(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B);

/// What both operators ask of the shapes and dtypes of pages and tables.
void check_pages(
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& per_sequence_B,
    const at::Tensor& tokens_THP);

} // namespace baton::ops
