// SPDX-License-Identifier: Apache-2.0
// The two-product feed-forward layer.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/nn/linear.h"
#include "baton/nn/sublayer.h"

namespace baton::nn {

/// Squared ReLU, GELU (tanh form) or SwiGLU; SwiGLU's up_proj holds the gate's rows first.
class Mlp final : public Sublayer {
 public:
  explicit Mlp(const SublayerArguments& arguments);

  at::Tensor forward(const at::Tensor& hidden_TD, const StepContext& context) const override;
  at::Tensor step(
      const at::Tensor& hidden_TD,
      const ops::LayerFrame& frame,
      const StepContext& context) const override;

 private:
  enum class Activation { kSquaredRelu, kGelu, kSwiglu };

  static Activation parse_activation(const MlpConfig& config);

  Activation activation_;
  parallel::Group tensor_ranks_;
  Linear up_proj_;
  Linear down_proj_;
};

} // namespace baton::nn
