// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/ssd_sweep.h"

#include <ATen/ATen.h>

#include "baton/ops/cuda/ssd_hopper.h"

namespace baton::ops::cuda {
namespace {

/// One or two walks at once.
void launch_sweeps(
    const Launcher& launcher,
    const SsdPlan& plan,
    const std::vector<SsdSweep>& sweeps) {
  const SsdWalk& first = sweeps.front().walk;
  const SsdWalk& last = sweeps.back().walk;
  if (takes_hopper(
          launcher,
          plan.dtype,
          plan.sizes,
          {&first.values, &first.keys, &last.values, &last.keys})) {
    launch_hopper_sweep(launcher, plan, sweeps);
    return;
  }
  const SsdKernel kernel = ssd_sweep_kernel(plan.dtype, plan.tile);
  launcher.launch(
      kernel.spec,
      {.grid = {plan.blocks(), static_cast<unsigned>(sweeps.size()), 1},
       .block = {kernel.threads, 1, 1},
       .shared_bytes = kernel.shared_bytes},
      plan.layout(),
      first.time.inputs,
      walks_of(sweeps));
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

} // namespace

SsdSweepWalks walks_of(const std::vector<SsdSweep>& sweeps) {
  SsdSweepWalks walks{};
  for (std::size_t i = 0; i < sweeps.size(); ++i) {
    const auto& [walk, incoming, outputs] = sweeps[i];
    walks.of[i] = {
        {walk.values.rows, walk.keys.rows, incoming.states},
        outputs,
        walk.direction == SsdDirection::kReverse};
  }
  return walks;
}

SsdSegments enter_segments(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk) {
  const at::Tensor entering = empty_states(plan, plan.segments());
  const at::Tensor decays = empty_decays(plan, plan.segments());
  const at::Tensor states = empty_states(plan, walk.ends ? plan.sizes.B : 0);
  const at::Tensor log_decay = empty_decays(plan, walk.ends ? plan.sizes.B : 0);
  // Of two segments, the first leaves what comes into the other.
  const bool hands_on = !walk.ends && 2 * plan.segment_tokens >= plan.sizes.T;
  const SsdSource zero;
  launch_sweeps(
      launcher,
      plan,
      {{walk,
        hands_on ? walk.start : zero,
        {.states = entering.mutable_data_ptr<float>(),
         .log_decays = hands_on ? nullptr : decays.mutable_data_ptr<float>(),
         .skip_last = !walk.ends,
         .hands_on = hands_on}}});
  if (hands_on) {
    return {entering, states, log_decay};
  }
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
  if (plan.cut()) {
    const SsdSegments segments = enter_segments(launcher, plan, walk);
    return {segments.states_BHPN, segments.log_decay_BH};
  }
  const at::Tensor states = empty_states(plan, plan.sizes.B);
  const at::Tensor decays = empty_decays(plan, plan.sizes.B);
  if (plan.sizes.B > 0) {
    launch_sweeps(
        launcher,
        plan,
        {{walk, walk.start, {.states = data_or_null(states), .log_decays = data_or_null(decays)}}});
  }
  return {states, decays};
}

SsdChunkStates sweep_both_ways(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdWalk& forward,
    const SsdWalk& backward) {
  const auto [T, H, P, G, N, B] = plan.sizes;
  const auto states_of_chunks = [&, H = H, P = P, N = N] {
    return at::empty({plan.chunks(), H, P, N}, plan.state_options.dtype(plan.dtype));
  };
  SsdChunkStates states{states_of_chunks(), states_of_chunks(), {}};
  SsdSweepOutputs of_forward{.chunk_states = states.entering_KHPN.mutable_data_ptr()};
  SsdSweepOutputs of_backward{.chunk_states = states.leaving_KHPN.mutable_data_ptr()};
  if (plan.cut()) {
    const SsdSource forward_start(enter_segments(launcher, plan, forward).entering_states);
    const SsdSegments segments = enter_segments(launcher, plan, backward);
    const SsdSource backward_start(segments.entering_states);
    states.dinitial_BHPN = segments.states_BHPN;
    launch_sweeps(
        launcher,
        plan,
        {{forward, forward_start, of_forward}, {backward, backward_start, of_backward}});
    return states;
  }
  if (backward.ends) {
    states.dinitial_BHPN = at::empty({B, H, P, N}, plan.state_options);
    of_backward.states = states.dinitial_BHPN.mutable_data_ptr<float>();
  }
  launch_sweeps(
      launcher,
      plan,
      {{forward, forward.start, of_forward}, {backward, backward.start, of_backward}});
  return states;
}

} // namespace baton::ops::cuda
