// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/attention_step.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"
#include "baton/ops/linear.h"
#include "baton/ops/paged_attention.h"
#include "baton/ops/rms_norm.h"
#include "baton/ops/rotary.h"
#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Step = Tensor(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    Tensor&,
    Tensor&,
    const Tensor&,
    const Tensor&,
    double,
    double,
    double,
    double,
    bool,
    double);

Tensor step_meta(const AttentionStepInputs& in, const AttentionStepCache& /*cache*/) {
  return at::empty_symint(in.hidden_BD.sym_sizes(), in.hidden_BD.options());
}

void check_cache(const AttentionStepCache& cache, std::int64_t rows) {
  const Tensor& k_pages = cache.k_pages;
  const Tensor& v_pages = cache.v_pages;
  TORCH_CHECK(
      k_pages.dim() == 4 && k_pages.sizes() == v_pages.sizes() && k_pages.size(1) > 0 &&
          k_pages.size(2) > 0 && k_pages.size(3) > 0 &&
          k_pages.scalar_type() == v_pages.scalar_type(),
      "k_pages and v_pages must both be [pages, page_size, Hk, P] in one dtype, got ",
      k_pages.scalar_type(),
      " ",
      k_pages.sizes(),
      " and ",
      v_pages.scalar_type(),
      " ",
      v_pages.sizes());
  const Tensor& table = cache.page_table_BM;
  const Tensor& positions = cache.positions_B;
  TORCH_CHECK(
      table.dim() == 2 && table.size(0) == rows && table.scalar_type() == at::kInt &&
          positions.dim() == 1 && positions.size(0) == rows && positions.scalar_type() == at::kInt,
      "page_table must be int32 [B, M] and positions int32 [B] for B = ",
      rows,
      ", got ",
      table.scalar_type(),
      " ",
      table.sizes(),
      " and ",
      positions.scalar_type(),
      " ",
      positions.sizes());
}

void check_heads(const AttentionStepInputs& in, std::int64_t head_dim) {
  check_sizes("q_norm_weight", in.q_norm_weight_P, {head_dim});
  check_sizes("k_norm_weight", in.k_norm_weight_P, {head_dim});
  TORCH_CHECK(in.head_norm_eps >= 0, "head_norm_eps must not be negative: ", in.head_norm_eps);
  const OptionalTensor& frequencies = in.inverse_frequencies;
  TORCH_CHECK(
      !frequencies || (frequencies->dim() == 1 && frequencies->is_floating_point() &&
                       frequencies->size(0) * 2 <= head_dim),
      "inverse_frequencies must be a vector, two channels of a head for each: ",
      frequencies->sizes(),
      " vs ",
      head_dim);
}

/// x [B, H P] -> [B, H, P], normed and turned where the layer says so.
Tensor heads_of(
    const AttentionStepInputs& in,
    const Tensor& x,
    std::int64_t head_dim,
    const OptionalTensor& norm_weight,
    const OptionalTensor& positions) {
  Tensor x_BHP = x.unflatten(1, {x.size(1) / head_dim, head_dim});
  if (norm_weight) {
    x_BHP = rms_norm(x_BHP.flatten(0, 1), *norm_weight, in.head_norm_eps).view_as(x_BHP);
  }
  return positions
             ? rotary(
                   x_BHP, *positions, *in.inverse_frequencies, in.attention_factor, in.interleaved)
             : x_BHP;
}

} // namespace

AttentionStepSizes checked_attention_step(
    const AttentionStepInputs& in,
    const AttentionStepCache& cache) {
  check_activation("hidden", in.hidden_BD);
  TORCH_CHECK(
      in.hidden_BD.dim() == 2 && in.q_weight_QD.dim() == 2,
      "hidden must be [B, D] and q_weight [Hq P, D], got ",
      in.hidden_BD.sizes(),
      " and ",
      in.q_weight_QD.sizes());
  check_cache(cache, in.hidden_BD.size(0));
  const std::int64_t width = in.hidden_BD.size(1);
  const std::int64_t outputs = in.q_weight_QD.size(0);
  const std::int64_t key_heads = cache.k_pages.size(2);
  const std::int64_t head_dim = cache.k_pages.size(3);
  TORCH_CHECK(
      outputs > 0 && outputs % (key_heads * head_dim) == 0,
      "q_weight must have Hq P rows, Hq a multiple of the pages' Hk, got ",
      outputs,
      " for Hk ",
      key_heads,
      " and P ",
      head_dim);
  check_sizes("q_weight", in.q_weight_QD, {outputs, width});
  check_sizes("q_bias", in.q_bias_Q, {outputs});
  check_sizes("k_weight", in.k_weight_KD, {key_heads * head_dim, width});
  check_sizes("k_bias", in.k_bias_K, {key_heads * head_dim});
  check_sizes("v_weight", in.v_weight_KD, {key_heads * head_dim, width});
  check_sizes("v_bias", in.v_bias_K, {key_heads * head_dim});
  check_sizes("out_weight", in.out_weight_DQ, {width, outputs});
  check_sizes("out_bias", in.out_bias_D, {width});
  check_heads(in, head_dim);
  return {.heads = outputs / head_dim, .key_heads = key_heads, .head_dim = head_dim};
}

Tensor attention_step_by_operators_(
    const AttentionStepInputs& in,
    const AttentionStepCache& cache) {
  const auto [heads, key_heads, head_dim] = checked_attention_step(in, cache);
  const Tensor normed_BD = norm_in(in.frame, in.hidden_BD);
  const Tensor q_BQ = ops::linear(normed_BD, in.q_weight_QD, in.q_bias_Q);
  const Tensor k_BK = ops::linear(normed_BD, in.k_weight_KD, in.k_bias_K);
  const Tensor v_BK = ops::linear(normed_BD, in.v_weight_KD, in.v_bias_K);
  const OptionalTensor turning =
      in.inverse_frequencies ? std::optional(cache.positions_B.to(at::kLong)) : std::nullopt;
  const Tensor q_BHP = heads_of(in, q_BQ, head_dim, in.q_norm_weight_P, turning);
  const Tensor k_BHP = heads_of(in, k_BK, head_dim, in.k_norm_weight_P, turning);
  const Tensor v_BHP = v_BK.unflatten(1, {key_heads, head_dim});
  const Tensor starts_B1 = at::arange(q_BHP.size(0) + 1, cache.positions_B.options());
  Tensor k_pages = cache.k_pages;
  Tensor v_pages = cache.v_pages;
  paged_write_(k_pages, v_pages, k_BHP, v_BHP, cache.page_table_BM, starts_B1, cache.positions_B);
  const Tensor out_BHP = paged_attention(
      q_BHP,
      k_pages,
      v_pages,
      cache.page_table_BM,
      starts_B1,
      cache.positions_B + 1,
      in.softmax_scale);
  return add_out(
      in.frame, in.hidden_BD, ops::linear(out_BHP.flatten(1), in.out_weight_DQ, in.out_bias_D));
}

Tensor attention_step_(const AttentionStepInputs& in, const AttentionStepCache& cache) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::attention_step_", "").typed<Step>();
  Tensor k_pages = cache.k_pages;
  Tensor v_pages = cache.v_pages;
  return op.call(
      in.hidden_BD,
      in.frame.norm_weight_D,
      in.q_weight_QD,
      in.q_bias_Q,
      in.k_weight_KD,
      in.k_bias_K,
      in.v_weight_KD,
      in.v_bias_K,
      in.q_norm_weight_P,
      in.k_norm_weight_P,
      in.inverse_frequencies,
      in.out_weight_DQ,
      in.out_bias_D,
      k_pages,
      v_pages,
      cache.page_table_BM,
      cache.positions_B,
      in.softmax_scale,
      in.frame.norm_eps,
      in.head_norm_eps,
      in.attention_factor,
      in.interleaved,
      in.frame.scale);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "attention_step_(Tensor hidden, Tensor norm_weight, Tensor q_weight, Tensor? q_bias, "
      "Tensor k_weight, Tensor? k_bias, Tensor v_weight, Tensor? v_bias, Tensor? q_norm_weight, "
      "Tensor? k_norm_weight, Tensor? inverse_frequencies, Tensor out_weight, Tensor? out_bias, "
      "Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor page_table, Tensor positions, "
      "float softmax_scale, float norm_eps=1e-5, float head_norm_eps=1e-5, "
      "float attention_factor=1., bool interleaved=False, float scale=1.) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, CompositeExplicitAutograd, library) {
  library.impl("attention_step_", &attention_step_kernel<attention_step_by_operators_>);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("attention_step_", &attention_step_kernel<step_meta>);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("attention_step_", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
