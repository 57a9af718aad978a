// SPDX-License-Identifier: Apache-2.0
// Causal self-attention with grouped heads and optional rotary positions.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/linear.h"
#include "baton/nn/sublayer.h"

namespace baton::nn {

class Attention final : public Sublayer {
 public:
  explicit Attention(const SublayerArguments& arguments);

  at::Tensor forward(const at::Tensor& hidden_TD, const StepContext& context) const override;
  at::Tensor step(
      const at::Tensor& hidden_TD,
      const ops::LayerFrame& frame,
      const StepContext& context) const override;
  std::vector<StateSpec> states() const override;

 private:
  /// x [T, heads * P] -> [T, heads, P], normed and turned where the configuration says so.
  at::Tensor heads(const at::Tensor& x, const Parameter* norm, const at::Tensor& positions_T) const;

  /// Whole sequences, by one rank or by those that share the stream.
  at::Tensor attend(
      const at::Tensor& q_THP,
      const at::Tensor& k_THP,
      const at::Tensor& v_THP,
      const StepContext& context) const;
  at::Tensor attend_by_heads(
      const at::Tensor& q_THP,
      const at::Tensor& k_THP,
      const at::Tensor& v_THP,
      const parallel::Context& shared) const;

  /// Keys and values join the cache; queries see all of their sequence that the cache holds.
  at::Tensor attend_cache(
      const at::Tensor& q_THP,
      const at::Tensor& k_THP,
      const at::Tensor& v_THP,
      const StepContext& context) const;

  parallel::Group tensor_ranks_;
  AttentionConfig config_; ///< with the heads of this rank
  double norm_eps_;
  at::ScalarType dtype_;
  double scale_;
  std::string name_;
  Linear q_proj_;
  Linear k_proj_;
  Linear v_proj_;
  Linear o_proj_;
  const Parameter* q_norm_ = nullptr;
  const Parameter* k_norm_ = nullptr;
  const at::Tensor* inverse_frequencies_ = nullptr; ///< fp32; null without rotary positions
  double attention_factor_ = 1.0;
};

} // namespace baton::nn
