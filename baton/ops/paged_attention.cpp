// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/paged_attention.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"

namespace baton::ops {
namespace {

at::Tensor call_paged_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::paged_attention", "")
                             .typed<at::Tensor(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 double)>();
  return op.call(q_THP, k_pages, v_pages, page_table_BM, starts_B1, kv_lengths_B, scale);
}

void call_paged_write(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::paged_write_", "")
                             .typed<void(
                                 at::Tensor&,
                                 at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&)>();
  op.call(k_pages, v_pages, k_THP, v_THP, page_table_BM, starts_B1, first_positions_B);
}

at::Tensor paged_attention_meta(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double /*scale*/) {
  check_pages(k_pages, v_pages, page_table_BM, starts_B1, kv_lengths_B, q_THP);
  TORCH_CHECK(
      q_THP.scalar_type() == k_pages.scalar_type(),
      "queries and pages must have one dtype, got ",
      q_THP.scalar_type(),
      " and ",
      k_pages.scalar_type());
  return at::empty_symint(q_THP.sym_sizes(), q_THP.options());
}

void paged_write_meta(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B) {
  check_pages(k_pages, v_pages, page_table_BM, starts_B1, first_positions_B, k_THP);
}

} // namespace

void check_pages(
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& per_sequence_B,
    const at::Tensor& tokens_THP) {
  TORCH_CHECK(
      k_pages.dim() == 4 && k_pages.sym_sizes() == v_pages.sym_sizes() && k_pages.sym_size(1) > 0 &&
          k_pages.sym_size(2) > 0 && k_pages.scalar_type() == v_pages.scalar_type(),
      "k_pages and v_pages must both be [pages, page_size, Hk, P] in one dtype, got ",
      k_pages.scalar_type(),
      " ",
      k_pages.sym_sizes(),
      " and ",
      v_pages.scalar_type(),
      " ",
      v_pages.sym_sizes());
  TORCH_CHECK(
      tokens_THP.dim() == 3 && tokens_THP.sym_size(2) == k_pages.sym_size(3) &&
          tokens_THP.sym_size(1) % k_pages.sym_size(2) == 0,
      "tokens must be [T, H, P] with P of the pages ",
      k_pages.sym_sizes(),
      " and H a multiple of their heads, got ",
      tokens_THP.sym_sizes());
  TORCH_CHECK(
      starts_B1.dim() == 1 && page_table_BM.dim() == 2 && per_sequence_B.dim() == 1 &&
          per_sequence_B.sym_size(0) + 1 == starts_B1.sym_size(0) &&
          page_table_BM.sym_size(0) == per_sequence_B.sym_size(0),
      "page_table [B, M], starts [B + 1] and the lengths or positions [B] must agree, got ",
      page_table_BM.sym_sizes(),
      ", ",
      starts_B1.sym_sizes(),
      ", ",
      per_sequence_B.sym_sizes());
  TORCH_CHECK(
      page_table_BM.scalar_type() == at::kInt && starts_B1.scalar_type() == at::kInt &&
          per_sequence_B.scalar_type() == at::kInt,
      "page_table, starts and the lengths or positions must be int32");
}

at::Tensor paged_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double scale) {
  return call_paged_attention(
      q_THP, k_pages, v_pages, page_table_BM, starts_B1, kv_lengths_B, scale);
}

void paged_write_(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B) {
  call_paged_write(k_pages, v_pages, k_THP, v_THP, page_table_BM, starts_B1, first_positions_B);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "paged_attention(Tensor q, Tensor k_pages, Tensor v_pages, Tensor page_table, "
      "Tensor starts, Tensor kv_lengths, float scale) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "paged_write_(Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor k, Tensor v, "
      "Tensor page_table, Tensor starts, Tensor first_positions) -> ()",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("paged_attention", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
  library.impl("paged_write_", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("paged_attention", &paged_attention_meta);
  library.impl("paged_write_", &paged_write_meta);
}

} // namespace baton::ops
