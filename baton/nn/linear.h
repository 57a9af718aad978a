// SPDX-License-Identifier: Apache-2.0
// A dense layer's parameters and its product.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "baton/nn/parameter.h"

namespace baton::nn {

struct LinearOptions {
  std::string name; ///< "layers.3.mlp.up_proj"
  std::int64_t in = 0;
  std::int64_t out = 0;
  bool bias = false;
  ParameterCut cut; ///< of the weight [out, in]
  double start_deviation = 0.02;
};

class Linear {
 public:
  Linear(const LinearOptions& options, ParameterStore& store);

  /// x [T, in] -> [T, out], of the ranks of tensor parallelism:
  /// - cut over its columns of outputs (dim 0): all rows -> all rows of this rank's outputs;
  /// - cut over its inputs (dim 1): all rows of this rank's inputs -> this rank's rows.
  at::Tensor operator()(const at::Tensor& x) const;

  const at::Tensor& weight() const { return weight_.value; }
  const Parameter* bias() const { return bias_; } ///< null without one
  std::optional<at::Tensor> bias_value() const { return value_of(bias_); }

 private:
  const Parameter& weight_;
  const Parameter* bias_ = nullptr;
  parallel::Group adds_up_; ///< ranks that each have a part of the inputs
};

} // namespace baton::nn
