// SPDX-License-Identifier: Apache-2.0
// What one symbol of a pattern becomes: the interface of a layer's inner part, and the table of
// kinds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/config.h"
#include "baton/nn/parameter.h"
#include "baton/nn/state_spec.h"
#include "baton/nn/step_context.h"
#include "baton/ops/layer_frame.h"

namespace baton::nn {

/// The inner part of a layer, between its norm and its residual addition.
class Sublayer {
 public:
  Sublayer() = default;
  Sublayer(const Sublayer&) = delete;
  Sublayer& operator=(const Sublayer&) = delete;
  virtual ~Sublayer() = default;

  /// hidden_TD -> [T, D]. In prefill and step forms it also advances the states of `context.cache`.
  virtual at::Tensor forward(const at::Tensor& hidden_TD, const StepContext& context) const = 0;

  /// The whole layer in the step form: `add_out` of `forward` of `norm_in`, one after the other. A
  /// kind that has an operator for all of it gives that instead.
  virtual at::Tensor
  step(const at::Tensor& hidden_TD, const ops::LayerFrame& frame, const StepContext& context) const;

  /// The states it keeps between calls; none by default.
  virtual std::vector<StateSpec> states() const { return {}; }
};

/// What a factory gets: where the layer stands, the sizes, and the store that takes its parameters.
struct SublayerArguments {
  std::string layer_name; ///< "layers.3"
  const LayerConfig& config;
  ParameterStore& store;
};

/// One kind of layer: its pattern symbol and how to make it.
struct SublayerKind {
  char symbol;
  std::string name;
  std::function<std::unique_ptr<Sublayer>(const SublayerArguments&)> make;
};

/// Every kind that can be built. A new layer adds its row in sublayer.cpp and nothing else above
/// `nn/`.
const std::vector<SublayerKind>& sublayer_kinds();

/// Makes the sublayer of `symbol`. Throws, naming the kinds that exist, when there is none.
std::unique_ptr<Sublayer> make_sublayer(char symbol, const SublayerArguments& arguments);

} // namespace baton::nn
