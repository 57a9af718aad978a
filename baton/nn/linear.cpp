// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/linear.h"

#include <ATen/ATen.h>

#include "baton/ops/linear.h"
#include "baton/parallel/tensor_rows.h"

namespace baton::nn {

Linear::Linear(const LinearOptions& options, ParameterStore& store)
    : weight_(store.declare(
          {.name = options.name + ".weight",
           .shape = {options.out, options.in},
           .cut = options.cut,
           .start = start_normal(options.start_deviation)})),
      adds_up_(options.cut.dim == 1 ? store.tensor_ranks() : parallel::Group()) {
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
  const std::optional<at::Tensor> bias = bias_value();
  if (adds_up_.alone()) {
    return ops::linear(x, weight_.value, bias);
  }
  const at::Tensor own_rows = parallel::scatter_rows(ops::linear(x, weight_.value), adds_up_);
  return bias ? own_rows + *bias : own_rows;
}

} // namespace baton::nn
