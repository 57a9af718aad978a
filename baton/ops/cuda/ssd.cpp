// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd.h"

#include <optional>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/jit/tile_map.h"
#include "baton/ops/cuda/ssd_sweep.h"

namespace baton::ops::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

void check_devices(const SsdInputs& in, const SsdStart& start) {
  check_device("dt", in.dt_TH, in.x_THP);
  check_device("A", in.A_H, in.x_THP);
  check_device("B", in.B_TGN, in.x_THP);
  check_device("C", in.C_TGN, in.x_THP);
  check_device("D", in.D, in.x_THP);
  check_device("dt_bias", in.time_step.bias_H, in.x_THP);
  check_device("initial_states", start.states_SHPN, in.x_THP);
  check_device("initial_slots", start.slots_B, in.x_THP);
}

/// Whether the kernel of sm_90a takes these: see ssd_hopper_kernel().
bool fits_hopper(const Launcher& launcher, const SsdPlan& plan, const SsdForwardInputs& inputs) {
  const SsdSizes& sizes = plan.sizes;
  return plan.dtype == at::kBFloat16 && sizes.P == 64 && (sizes.N == 64 || sizes.N == 128) &&
         sizes.T > 0 && inputs.x.packed && inputs.B.packed && inputs.C.packed &&
         launcher.arch() == kHopperArch;
}

jit::TileMap map_rows(const SsdRows& rows, std::int64_t tokens, std::int64_t values) {
  // Rows of a single token may lie any stride apart.
  const std::int64_t stride = tokens == 1 ? values : rows.stride;
  return jit::map_tiles({rows.data, tokens, values, stride}, kSsdChunk);
}

/// `leaving`, if not null, receives what leaves each segment.
void launch_forward(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdTime& time,
    const SsdForwardInputs& inputs,
    at::Tensor& y,
    float* leaving) {
  if (!fits_hopper(launcher, plan, inputs)) {
    const SsdKernel kernel = ssd_forward_kernel(plan.dtype, plan.tile);
    launcher.launch(
        kernel.spec,
        {.grid = {plan.blocks(), 1, 1},
         .block = {kernel.threads, 1, 1},
         .shared_bytes = kernel.shared_bytes},
        plan.layout(),
        time.inputs,
        inputs,
        y.mutable_data_ptr(),
        leaving);
    return;
  }
  const SsdSizes& sizes = plan.sizes;
  const SsdKernel kernel = ssd_hopper_kernel(sizes.N);
  const SsdRows out{y.const_data_ptr(), sizes.H * sizes.P, true};
  launcher.launch(
      kernel.spec,
      {.grid = {plan.blocks(), 1, 1},
       .block = {kernel.threads, 1, 1},
       .shared_bytes = kernel.shared_bytes},
      plan.layout(),
      time.inputs,
      inputs,
      y.mutable_data_ptr(),
      leaving,
      map_rows(inputs.x, sizes.T, sizes.H * sizes.P),
      map_rows(inputs.B, sizes.T, sizes.G * sizes.N),
      map_rows(inputs.C, sizes.T, sizes.G * sizes.N),
      map_rows(out, sizes.T, sizes.H * sizes.P));
}

std::tuple<at::Tensor, at::Tensor>
run_forward(const SsdInputs& in, const SsdStart& start, const SsdSizes& sizes, bool final_states) {
  const SsdPlan plan(in.x_THP, in.starts, sizes);
  const SsdTokens x(in.x_THP);
  const SsdTokens B(in.B_TGN);
  const SsdTokens C(in.C_TGN);
  const SsdTime time(in.dt_TH, in.A_H, in.time_step);
  const SsdSkip skip(in.D);
  const Launcher launcher(in.x_THP);
  at::Tensor y = at::empty(in.x_THP.sizes(), in.x_THP.options());
  SsdSource incoming =
      start.states_SHPN.has_value() ? SsdSource(*start.states_SHPN, start.slots_B) : SsdSource();
  at::Tensor states;
  float* leaving = nullptr;
  if (plan.cut()) {
    const SsdSegments segments = enter_segments(
        launcher, plan, {SsdDirection::kForward, x, B, time, incoming, final_states});
    incoming = SsdSource(segments.entering_states);
    states = segments.states_BHPN;
  } else {
    states = at::empty({final_states ? sizes.B : 0, sizes.H, sizes.P, sizes.N}, plan.state_options);
    leaving = final_states ? states.mutable_data_ptr<float>() : nullptr;
  }
  if (sizes.B > 0) {
    const SsdForwardInputs inputs{x.rows, B.rows, C.rows, skip.inputs, incoming.states};
    launch_forward(launcher, plan, time, inputs, y, leaving);
  }
  return {y, states};
}

std::tuple<at::Tensor, at::Tensor> ssd_cuda(
    const at::Tensor& x,
    const at::Tensor& dt,
    const at::Tensor& A,
    const at::Tensor& B,
    const at::Tensor& C,
    const at::Tensor& starts,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max,
    bool final_states) {
  const SsdInputs inputs{
      x, dt, A, B, C, starts, D, {dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)}};
  const SsdStart start{initial_states, initial_slots};
  const SsdSizes sizes = checked_ssd_inputs(inputs, start);
  check_devices(inputs, start);
  return run_forward(inputs, start, sizes, final_states);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("ssd", &ssd_cuda);
}

} // namespace baton::ops::cuda
