// SPDX-License-Identifier: Apache-2.0
// The layers of a pattern, or of a part of it, one after the other.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/layer.h"

namespace baton::model {

struct StackOutput {
  at::Tensor hidden_TD;
  std::vector<at::Tensor> tapped;           ///< hidden states behind the layers asked for
  std::vector<at::Tensor> auxiliary_losses; ///< scalars that routers and the like add to the loss
};

class Stack {
 public:
  /// `symbols` holds one letter a layer, as pattern parsing leaves it. `offset` is the number of
  /// layers before them in the model, so that theirs have the same names wherever they are.
  Stack(
      const std::string& symbols,
      const nn::LayerConfig& config,
      nn::ParameterStore& store,
      std::int64_t offset = 0);

  /// `taps` lists layer indexes within the stack, rising, whose outputs come back beside the last
  /// one.
  StackOutput forward(
      at::Tensor hidden_TD,
      const nn::StepContext& context,
      const std::vector<std::int64_t>& taps = {}) const;

  std::vector<nn::StateSpec> states() const;

 private:
  std::deque<nn::Layer> layers_;
};

} // namespace baton::model
