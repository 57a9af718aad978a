// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/mixer.h"

#include <optional>
#include <vector>

#include <ATen/ATen.h>

#include "baton/nn/gathered_linear.h"
#include "baton/nn/shared_gated_norm.h"
#include "baton/ops/gated_norm.h"

namespace baton::nn {
namespace {

LinearOptions in_proj_options(
    const SublayerArguments& arguments,
    const MixerFrameConfig& frame,
    const MixerCore& core) {
  std::vector<CutPart> parts{{frame.inner}};
  std::int64_t columns = frame.inner;
  for (const CutPart& part : core.input_parts()) {
    parts.push_back(part);
    columns += part.size;
  }
  return {
      .name = arguments.layer_name + ".mixer.in_proj",
      .in = arguments.config.width,
      .out = columns,
      .bias = frame.bias,
      .cut = {.dim = 0, .parts = parts},
      .start_deviation = arguments.config.start_deviation};
}

LinearOptions out_proj_options(const SublayerArguments& arguments, const MixerFrameConfig& frame) {
  return {
      .name = arguments.layer_name + ".mixer.out_proj",
      .in = frame.inner,
      .out = arguments.config.width,
      .bias = frame.bias,
      .cut = {.dim = 1, .parts = {}},
      .start_deviation = arguments.config.start_deviation * arguments.config.output_start_scale};
}

const Parameter* declare_norm(const SublayerArguments& arguments, const MixerFrameConfig& frame) {
  if (!frame.norm) {
    return nullptr;
  }
  return &arguments.store.declare(
      {.name = arguments.layer_name + ".mixer.norm.weight",
       .shape = {frame.inner},
       .cut = {.dim = 0, .parts = {}},
       .start = start_constant(1.0),
       .weight_decay = false});
}

} // namespace

Mixer::Mixer(
    const SublayerArguments& arguments,
    const MixerFrameConfig& frame,
    const MakeCore& make_core)
    : tensor_ranks_(arguments.store.tensor_ranks()),
      frame_(frame),
      inner_(frame.inner / tensor_ranks_.size()),
      norm_eps_(arguments.config.norm_eps),
      core_(make_core(
          {.name = arguments.layer_name + ".mixer",
           .layer = arguments.config,
           .store = arguments.store})),
      in_proj_(in_proj_options(arguments, frame, *core_), arguments.store),
      norm_(declare_norm(arguments, frame)),
      out_proj_(out_proj_options(arguments, frame), arguments.store) {}

at::Tensor Mixer::forward(const at::Tensor& hidden_TD, const StepContext& context) const {
  const at::Tensor projected =
      gathered_linear(hidden_TD, context.layout.num_tokens, {&in_proj_}, tensor_ranks_)[0];
  // A split, because its gradient is one copy; each slice's would be a whole tensor of zeros.
  const std::vector<at::Tensor> parts =
      projected.split_with_sizes({inner_, projected.size(1) - inner_}, 1);
  const at::Tensor y_TI = run_core(parts[1], context);
  return out_proj_(finish(y_TI, parts[0]));
}

at::Tensor Mixer::run_core(const at::Tensor& input_TC, const StepContext& context) const {
  switch (context.form) {
    case Form::kTrain:
      return core_->train(input_TC, context);
    case Form::kPrefill:
      return core_->prefill(input_TC, context);
    case Form::kStep:
      return core_->step(input_TC, context);
  }
  TORCH_INTERNAL_ASSERT(false, "unknown form");
}

at::Tensor Mixer::finish(const at::Tensor& y_TI, const at::Tensor& z_TI) const {
  const ops::GatedNormConfig config{
      .eps = norm_eps_, .group_size = frame_.group_size, .gate_first = frame_.gate_first};
  if (norm_ == nullptr) {
    return ops::gated_norm(y_TI, z_TI, std::nullopt, config);
  }
  return inner_ % frame_.group_size == 0
             ? ops::gated_norm(y_TI, z_TI, norm_->value, config)
             : shared_gated_norm(y_TI, z_TI, norm_->value, config, tensor_ranks_);
}

} // namespace baton::nn
