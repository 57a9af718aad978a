// SPDX-License-Identifier: Apache-2.0
// One layer of a stack: norm, sublayer, residual addition.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/sublayer.h"
#include "baton/ops/step_chain.h"

namespace baton::nn {

/// Runs the steps of layers that are called one after the other together.
using StepChain = ops::StepChain;

class Layer {
 public:
  /// `index` counts from 0 through the whole model, whatever part of it this rank holds.
  Layer(char symbol, std::int64_t index, const LayerConfig& config, ParameterStore& store);

  /// This rank's rows of hidden_TD -> hidden_TD + residual_multiplier *
  /// dropout(sublayer(rms_norm(hidden_TD))).
  at::Tensor forward(const at::Tensor& hidden_TD, const StepContext& context) const;

  std::vector<StateSpec> states() const { return sublayer_->states(); }

 private:
  at::Tensor drop(const at::Tensor& output_TD, const StepContext& context) const;

  std::string name_;
  parallel::Group tensor_ranks_;
  double norm_eps_;
  double dropout_;
  double residual_multiplier_;
  const Parameter& norm_;
  std::unique_ptr<Sublayer> sublayer_;
};

} // namespace baton::nn
