// SPDX-License-Identifier: Apache-2.0
// A feed-forward layer's step on the CPU: the product behind the norm, then that behind the
// activation and the addition, as phases of one parallel region.
#include "baton/ops/mlp_step.h"

#include <memory>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cpu/activation.h"
#include "baton/ops/cpu/layer_step.h"
#include "baton/ops/cpu/phased_step.h"
#include "baton/ops/step_chain.h"

namespace baton::ops::cpu {
namespace {

using Activation = void (*)(const ActivationRows& task, std::int64_t begin, std::int64_t end);

class MlpStep final : public PhasedStep {
 public:
  MlpStep(const MlpStepInputs& in, Activation activation)
      : in_(in),
        activation_(activation),
        layer_(room_, in.hidden_BD, in.frame),
        up_(room_, layer_.dtype(), layer_.num_rows(), in.up_weight_FD.size(0)),
        first_(layer_.first_product(in_.up_weight_FD, in_.up_bias_F, up_)),
        last_(layer_.last_product(in_.down_weight_DF, in_.down_bias_D)) {}

  const at::Tensor& out() const { return layer_.out(); }

  std::vector<Phase> phases() override {
    return {layer_.norm_and_product(first_), layer_.product_and_add(last_, [this](void* rows) {
              activate(rows);
            })};
  }

 private:
  void activate(void* active) const {
    const ActivationRows rows{
        .dtype = layer_.dtype(),
        .x = up_.data(),
        .dy = nullptr,
        .out = active,
        .channels = last_.depth,
        .x_stride = up_.channels(),
        .dy_stride = 0,
        .out_stride = last_.depth};
    activation_(rows, 0, layer_.num_rows());
  }

  MlpStepInputs in_;
  Activation activation_;
  StepRoom room_;
  LayerStep layer_;
  StepRows up_;
  MatvecTask first_;
  MatvecTask last_;
};

/// What is not fp32 or bf16 throughout, or has too many rows, takes the operators one by one.
at::Tensor step(
    const MlpStepInputs& in,
    bool gated,
    Activation activation,
    at::Tensor (*by_operators)(const MlpStepInputs&)) {
  check_mlp_step(in, gated);
  const at::ScalarType dtype = in.hidden_BD.scalar_type();
  if (!LayerStep::takes(in.hidden_BD, in.frame) ||
      !LayerStep::takes(dtype, in.up_weight_FD, in.up_bias_F) ||
      !LayerStep::takes(dtype, in.down_weight_DF, in.down_bias_D)) {
    StepChain::run();
    return by_operators(in);
  }
  auto step = std::make_unique<MlpStep>(in, activation);
  at::Tensor out = step->out();
  run_step(std::move(step));
  return out;
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
