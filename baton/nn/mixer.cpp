// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/mixer.h"

#include <vector>

#include <ATen/ATen.h>

#include "baton/nn/gathered_linear.h"

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

MixerInput::Columns MixerInput::split() const {
  const std::vector<at::Tensor> parts =
      projected_TC.split_with_sizes({inner, projected_TC.size(1) - inner}, 1);
  return {parts[0], parts[1]};
}

Mixer::Mixer(
    const SublayerArguments& arguments,
    const MixerFrameConfig& frame,
    const MakeCore& make_core)
    : tensor_ranks_(arguments.store.tensor_ranks()),
      inner_(frame.inner / tensor_ranks_.size()),
      core_(make_core(
          {.name = arguments.layer_name + ".mixer",
           .layer = arguments.config,
           .store = arguments.store})),
      in_proj_(in_proj_options(arguments, frame, *core_), arguments.store),
      gate_(
          declare_norm(arguments, frame),
          {.eps = arguments.config.norm_eps,
           .group_size = frame.group_size,
           .gate_first = frame.gate_first},
          inner_,
          tensor_ranks_),
      out_proj_(out_proj_options(arguments, frame), arguments.store) {}

at::Tensor Mixer::forward(const at::Tensor& hidden_TD, const StepContext& context) const {
  TORCH_INTERNAL_ASSERT(context.form != Form::kStep, "a step makes the whole layer");
  const at::Tensor projected_TC =
      gathered_linear(hidden_TD, context.layout.num_tokens, {&in_proj_}, tensor_ranks_)[0];
  const MixerInput input{projected_TC, inner_, gate_};
  return out_proj_(
      context.form == Form::kTrain ? core_->train(input, context) : core_->prefill(input, context));
}

at::Tensor Mixer::step(
    const at::Tensor& hidden_TD,
    const ops::LayerFrame& frame,
    const StepContext& context) const {
  return core_->step({hidden_TD, frame, in_proj_, gate_, out_proj_}, context);
}

} // namespace baton::nn
