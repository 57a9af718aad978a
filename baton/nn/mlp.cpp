// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/mlp.h"

#include <ATen/ATen.h>

#include "baton/nn/gathered_linear.h"
#include "baton/ops/activation.h"
#include "baton/ops/mlp_step.h"

namespace baton::nn {
namespace {

LinearOptions up_options(const SublayerArguments& arguments) {
  const MlpConfig& config = arguments.config.mlp;
  const bool gated = config.activation == "swiglu";
  return {
      .name = arguments.layer_name + ".mlp.up_proj",
      .in = arguments.config.width,
      .out = gated ? 2 * config.hidden : config.hidden,
      .bias = config.bias,
      .cut =
          {.dim = 0,
           .parts = gated ? std::vector<CutPart>{{config.hidden}, {config.hidden}}
                          : std::vector<CutPart>{}},
      .start_deviation = arguments.config.start_deviation};
}

LinearOptions down_options(const SublayerArguments& arguments) {
  return {
      .name = arguments.layer_name + ".mlp.down_proj",
      .in = arguments.config.mlp.hidden,
      .out = arguments.config.width,
      .bias = arguments.config.mlp.bias,
      .cut = {.dim = 1, .parts = {}},
      .start_deviation = arguments.config.start_deviation * arguments.config.output_start_scale};
}

const parallel::Group& checked_ranks(const SublayerArguments& arguments) {
  const parallel::Group& ranks = arguments.store.tensor_ranks();
  TORCH_CHECK(
      ranks.size() <= arguments.config.mlp.hidden,
      "parallel.tp must not exceed model.mlp.hidden: ",
      ranks.size(),
      " vs ",
      arguments.config.mlp.hidden,
      "; the nearest tp that can be is ",
      arguments.config.mlp.hidden);
  return ranks;
}

} // namespace

Mlp::Activation Mlp::parse_activation(const MlpConfig& config) {
  if (config.activation == "squared_relu") {
    return Activation::kSquaredRelu;
  }
  if (config.activation == "gelu") {
    return Activation::kGelu;
  }
  TORCH_CHECK(
      config.activation == "swiglu",
      "model.mlp.activation must be squared_relu, gelu or swiglu, got '",
      config.activation,
      "'");
  return Activation::kSwiglu;
}

Mlp::Mlp(const SublayerArguments& arguments)
    : activation_(parse_activation(arguments.config.mlp)),
      tensor_ranks_(checked_ranks(arguments)),
      up_proj_(up_options(arguments), arguments.store),
      down_proj_(down_options(arguments), arguments.store) {}

at::Tensor Mlp::forward(const at::Tensor& hidden_TD, const StepContext& context) const {
  const at::Tensor up_TF =
      gathered_linear(hidden_TD, context.layout.num_tokens, {&up_proj_}, tensor_ranks_)[0];
  switch (activation_) {
    case Activation::kSquaredRelu:
      return down_proj_(ops::squared_relu(up_TF));
    case Activation::kGelu:
      return down_proj_(at::gelu(up_TF, "tanh"));
    case Activation::kSwiglu:
      return down_proj_(ops::swiglu(up_TF));
  }
  TORCH_INTERNAL_ASSERT(false, "unknown activation");
}

at::Tensor Mlp::step(
    const at::Tensor& hidden_TD,
    const ops::LayerFrame& frame,
    const StepContext& context) const {
  const ops::MlpStepInputs inputs{
      .hidden_BD = hidden_TD,
      .frame = frame,
      .up_weight_FD = up_proj_.weight(),
      .up_bias_F = up_proj_.bias_value(),
      .down_weight_DF = down_proj_.weight(),
      .down_bias_D = down_proj_.bias_value()};
  switch (activation_) {
    case Activation::kSquaredRelu:
      return ops::squared_relu_mlp_step(inputs);
    case Activation::kGelu:
      return Sublayer::step(hidden_TD, frame, context);
    case Activation::kSwiglu:
      return ops::swiglu_mlp_step(inputs);
  }
  TORCH_INTERNAL_ASSERT(false, "unknown activation");
}

} // namespace baton::nn
