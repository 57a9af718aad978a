// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/linear.h"

#include <optional>

#include "baton/ops/linear.h"

namespace baton::nn {

Linear::Linear(const LinearOptions& options, ParameterStore& store)
    : weight_(store.declare(
          {.name = options.name + ".weight",
           .shape = {options.out, options.in},
           .cut = options.cut,
           .start = start_normal(options.start_deviation)})) {
  if (options.bias) {
    // A column cut divides the bias like the weight's rows; a row cut leaves it whole.
    bias_ = &store.declare(
        {.name = options.name + ".bias",
         .shape = {options.out},
         .cut = options.cut.dim == 0 ? options.cut : ParameterCut{},
         .start = start_constant(0.0),
         .weight_decay = false});
  }
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return ops::linear(
      x, weight_.value, bias_ == nullptr ? std::nullopt : std::make_optional(bias_->value));
}

} // namespace baton::nn
