// SPDX-License-Identifier: Apache-2.0
#include "baton/model/stack.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace baton::model {

Stack::Stack(
    const std::string& symbols,
    const nn::LayerConfig& config,
    nn::ParameterStore& store,
    std::int64_t offset) {
  for (const char symbol : symbols) {
    layers_.emplace_back(symbol, offset + static_cast<std::int64_t>(layers_.size()), config, store);
  }
}

StackOutput Stack::forward(
    at::Tensor hidden_TD,
    const nn::StepContext& context,
    const std::vector<std::int64_t>& taps) const {
  StackOutput output;
  std::optional<nn::StepChain> chain;
  if (context.form == nn::Form::kStep) {
    chain.emplace();
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    hidden_TD = layers_[i].forward(hidden_TD, context);
    if (std::binary_search(taps.begin(), taps.end(), static_cast<std::int64_t>(i))) {
      output.tapped.push_back(hidden_TD);
    }
  }
  nn::StepChain::run();
  output.hidden_TD = std::move(hidden_TD);
  return output;
}

std::vector<nn::StateSpec> Stack::states() const {
  std::vector<nn::StateSpec> specs;
  for (const nn::Layer& layer : layers_) {
    for (nn::StateSpec& spec : layer.states()) {
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

} // namespace baton::model
