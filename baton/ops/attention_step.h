// SPDX-License-Identifier: Apache-2.0
// A whole attention layer for one token of each of several sequences, in place on their pages.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/layer_frame.h"

namespace baton::ops {

/// Heads and their channels P lie side by side: Q = Hq P outputs make the queries, K = Hk P the
/// keys and as many the values. Parameters as in `linear`, `rms_norm` and `rotary`.
struct AttentionStepInputs {
  at::Tensor hidden_BD;
  LayerFrame frame;
  at::Tensor q_weight_QD;
  std::optional<at::Tensor> q_bias_Q = {};
  at::Tensor k_weight_KD;
  std::optional<at::Tensor> k_bias_K = {};
  at::Tensor v_weight_KD;
  std::optional<at::Tensor> v_bias_K = {};
  std::optional<at::Tensor> q_norm_weight_P = {}; ///< of a norm over each head; absent: none
  std::optional<at::Tensor> k_norm_weight_P = {};
  double head_norm_eps = 1e-5;
  std::optional<at::Tensor> inverse_frequencies = {}; ///< [R]; absent: no rotary positions
  double attention_factor = 1.0;
  bool interleaved = false;
  double softmax_scale = 1.0;
  at::Tensor out_weight_DQ;
  std::optional<at::Tensor> out_bias_D = {};
};

/// Pages [pages, page_size, Hk, P] and the tables of B sequences, int32, as in `paged_write_`: the
/// new token of sequence b has position positions_B[b], which is how many it has already.
struct AttentionStepCache {
  at::Tensor k_pages;
  at::Tensor v_pages;
  at::Tensor page_table_BM;
  at::Tensor positions_B;
};

/// hidden + scale attention(rms_norm(hidden)) [B, D], storing the tokens' keys and values in their
/// pages. What three times `linear`, `rms_norm` and `rotary` of heads, `paged_write_`,
/// `paged_attention`, `linear` and an addition make one after the other, in one parallel region on
/// a CPU: up to `kMatvecRows` rows read each weight once. No derivative: an argument that requires
/// grad while grad mode is on is refused. Throws c10::Error for bad input.
at::Tensor attention_step_(const AttentionStepInputs& inputs, const AttentionStepCache& cache);

struct AttentionStepSizes {
  std::int64_t heads;     ///< Hq
  std::int64_t key_heads; ///< Hk
  std::int64_t head_dim;  ///< P
};

/// Throws unless sizes fit each other and the tables are int32.
AttentionStepSizes checked_attention_step(
    const AttentionStepInputs& inputs,
    const AttentionStepCache& cache);

/// The operators one after the other, on any device.
at::Tensor attention_step_by_operators_(
    const AttentionStepInputs& inputs,
    const AttentionStepCache& cache);

/// `kRun` as the operator `baton::attention_step_`.
template <at::Tensor (*kRun)(const AttentionStepInputs& inputs, const AttentionStepCache& cache)>
at::Tensor attention_step_kernel(
    const at::Tensor& hidden,
    const at::Tensor& norm_weight,
    const at::Tensor& q_weight,
    const std::optional<at::Tensor>& q_bias,
    const at::Tensor& k_weight,
    const std::optional<at::Tensor>& k_bias,
    const at::Tensor& v_weight,
    const std::optional<at::Tensor>& v_bias,
    const std::optional<at::Tensor>& q_norm_weight,
    const std::optional<at::Tensor>& k_norm_weight,
    const std::optional<at::Tensor>& inverse_frequencies,
    const at::Tensor& out_weight,
    const std::optional<at::Tensor>& out_bias,
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& page_table,
    const at::Tensor& positions,
    double softmax_scale,
    double norm_eps,
    double head_norm_eps,
    double attention_factor,
    bool interleaved,
    double scale) {
  return kRun(
      {hidden,
       {norm_weight, norm_eps, scale},
       q_weight,
       q_bias,
       k_weight,
       k_bias,
       v_weight,
       v_bias,
       q_norm_weight,
       k_norm_weight,
       head_norm_eps,
       inverse_frequencies,
       attention_factor,
       interleaved,
       softmax_scale,
       out_weight,
       out_bias},
      {k_pages, v_pages, page_table, positions});
}

} // namespace baton::ops
