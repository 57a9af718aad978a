// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/ssd_sweep.h"

#include <ATen/ATen.h>

#include "baton/ops/cuda/ssd_hopper.h"

namespace baton::ops::cuda {
namespace {

void launch_sweep(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdWalk& walk,
    const SsdSource& incoming,
    const SsdSweepOutputs& outputs) {
  if (outputs.chunk_states == nullptr &&
      takes_hopper(launcher, plan.dtype, plan.sizes, {&walk.values, &walk.keys})) {
    launch_hopper_sweep(launcher, plan, {{walk, incoming, outputs}});
    return;
  }
  const SsdKernel kernel =
      ssd_sweep_kernel(plan.dtype, plan.tile, walk.direction == SsdDirection::kReverse);
  launcher.launch(
      kernel.spec,
      {.grid = {plan.blocks(), 1, 1},
       .block = {kernel.threads, 1, 1},
       .shared_bytes = kernel.shared_bytes},
      plan.layout(),
      walk.time.inputs,
      SsdSweepInputs{walk.values.rows, walk.keys.rows, incoming.states},
      outputs);
}

at::Tensor empty_states(const SsdPlan& plan, std::int64_t count) {
  return at::empty({count, plan.sizes.H, plan.sizes.P, plan.sizes.N}, plan.state_options);
}

/// Kernels write nothing through null.
float* data_or_null(const at::Tensor& tensor) {
  return tensor.numel() == 0 ? nullptr : tensor.mutable_data_ptr<float>();
}

at::Tensor empty_decays(const SsdPlan& plan, std::int64_t count) {
  return at::empty({count, plan.sizes.H}, plan.state_options);
}

SsdSweepOutput sweep_into(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdWalk& walk,
    const at::Tensor& chunk_states) {
  void* chunks = chunk_states.defined() ? chunk_states.mutable_data_ptr() : nullptr;
  if (plan.cut()) {
    const SsdSegments segments = enter_segments(launcher, plan, walk);
    if (chunks != nullptr) {
      const SsdSource entering(segments.entering_states);
      launch_sweep(launcher, plan, walk, entering, {.chunk_states = chunks});
    }
    return {segments.states_BHPN, segments.log_decay_BH, chunk_states};
  }
  const at::Tensor states = empty_states(plan, walk.ends ? plan.sizes.B : 0);
  const at::Tensor decays = empty_decays(plan, walk.ends ? plan.sizes.B : 0);
  if (plan.sizes.B > 0) {
    launch_sweep(
        launcher,
        plan,
        walk,
        walk.start,
        {.chunk_states = chunks,
         .states = data_or_null(states),
         .log_decays = data_or_null(decays)});
  }
  return {states, decays, chunk_states};
}

} // namespace

SsdSegments enter_segments(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk) {
  const at::Tensor entering = empty_states(plan, plan.segments());
  const at::Tensor decays = empty_decays(plan, plan.segments());
  const at::Tensor states = empty_states(plan, walk.ends ? plan.sizes.B : 0);
  const at::Tensor log_decay = empty_decays(plan, walk.ends ? plan.sizes.B : 0);
  launch_sweep(
      launcher,
      plan,
      walk,
      SsdSource(),
      {.states = entering.mutable_data_ptr<float>(),
       .log_decays = decays.mutable_data_ptr<float>(),
       .skip_last = !walk.ends});
  const SsdKernel kernel = ssd_combine_kernel(walk.direction == SsdDirection::kReverse);
  const std::int64_t elements = plan.sizes.H * plan.sizes.P * plan.sizes.N;
  const std::int64_t of_block = std::int64_t{kernel.threads} * kSsdCombineElements;
  launcher.launch(
      kernel.spec,
      {.grid =
           {static_cast<unsigned>((elements + of_block - 1) / of_block),
            static_cast<unsigned>(plan.sizes.B),
            1},
       .block = {kernel.threads, 1, 1}},
      plan.layout(),
      walk.start.states,
      entering.mutable_data_ptr<float>(),
      decays.const_data_ptr<float>(),
      data_or_null(states),
      data_or_null(log_decay));
  return {entering, states, log_decay};
}

SsdSweepOutput sweep(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk) {
  return sweep_into(launcher, plan, walk, at::Tensor());
}

SsdSweepOutput
sweep_keeping_chunks(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk) {
  const auto [T, H, P, G, N, B] = plan.sizes;
  return sweep_into(
      launcher,
      plan,
      walk,
      at::empty({plan.chunks(), H, P, N}, plan.state_options.dtype(plan.dtype)));
}

} // namespace baton::ops::cuda
