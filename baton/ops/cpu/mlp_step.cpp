// SPDX-License-Identifier: Apache-2.0
// A feed-forward layer's step on the CPU: norm, product, activation, product and addition as phases
// of one parallel region.
#include "baton/ops/mlp_step.h"

#include <array>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cpu/activation.h"
#include "baton/ops/cpu/layer_step.h"

namespace baton::ops::cpu {
namespace {

using Activation = void (*)(const ActivationRows& task, std::int64_t begin, std::int64_t end);

at::Tensor
run(const MlpStepInputs& in, StepRoom& room, const LayerStep& layer, Activation activation) {
  const std::int64_t channels = in.down_weight_DF.size(1);
  const std::int64_t up_channels = in.up_weight_FD.size(0);
  const StepRows up(room, layer.dtype(), layer.num_rows(), up_channels);
  const ProductRows active(room, layer.dtype(), layer.num_rows(), channels);
  const ActivationRows rows{
      .dtype = layer.dtype(),
      .x = up.data(),
      .dy = nullptr,
      .out = active.data(),
      .channels = channels,
      .x_stride = up_channels,
      .dy_stride = 0,
      .out_stride = channels};
  const auto activate = [&] {
    activation(rows, 0, layer.num_rows());
    active.place();
  };
  const MatvecTask first = layer.first_product(in.up_weight_FD, in.up_bias_F, up);
  const MatvecTask last = layer.last_product(active, in.down_weight_DF, in.down_bias_D);
  const std::array<Phase, 4> phases{
      layer.norm(),
      product_phase(first),
      Phase{.count = 1, .work = [&activate](std::int64_t) { activate(); }},
      layer.add(last)};
  run_phases(phases);
  return layer.out();
}

/// What is not fp32 or bf16 throughout, or has too many rows, takes the operators one by one.
at::Tensor step(
    const MlpStepInputs& in,
    bool gated,
    Activation activation,
    at::Tensor (*by_operators)(const MlpStepInputs&)) {
  check_mlp_step(in, gated);
  if (LayerStep::takes(in.hidden_BD, in.frame)) {
    StepRoom room;
    const LayerStep layer(room, in.hidden_BD, in.frame);
    if (layer.takes(in.up_weight_FD, in.up_bias_F) &&
        layer.takes(in.down_weight_DF, in.down_bias_D)) {
      return run(in, room, layer, activation);
    }
  }
  return by_operators(in);
}

at::Tensor squared_relu_step(const MlpStepInputs& in) {
  return step(in, /*gated=*/false, squared_relu_rows, squared_relu_mlp_by_operators);
}

at::Tensor swiglu_step(const MlpStepInputs& in) {
  return step(in, /*gated=*/true, swiglu_rows, swiglu_mlp_by_operators);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("squared_relu_mlp_step", &mlp_step_kernel<squared_relu_step>);
  library.impl("swiglu_mlp_step", &mlp_step_kernel<swiglu_step>);
}

} // namespace baton::ops::cpu
