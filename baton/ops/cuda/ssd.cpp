// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd.h"

#include <optional>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/ssd_hopper.h"
#include "baton/ops/cuda/ssd_sweep.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

/// `leaving`, if not null, receives what leaves each sequence.
void launch_forward(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdTime& time,
    const SsdForwardInputs& inputs,
    at::Tensor& y,
    float* leaving) {
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
}

std::tuple<at::Tensor, at::Tensor> run_forward(
    const SsdInputs& in,
    const SsdStart& start,
    const SsdSizes& sizes,
    bool final_states,
    const OptionalTensor& z_THP) {
  const SsdTokens x(in.x_THP);
  const SsdTokens B(in.B_TGN);
  const SsdTokens C(in.C_TGN);
  const SsdSkip skip(in.D);
  const Launcher launcher(in.x_THP);
  const SsdStream stream = join_short_sequences(
      launcher, in.starts, sizes, final_states || start.states_SHPN.has_value());
  const SsdTime time(in.dt_TH, in.A_H, in.time_step, stream.marks);
  const bool hopper = takes_hopper(launcher, in.x_THP.scalar_type(), sizes, {&x, &B, &C});
  const SsdPlan plan(
      in.x_THP,
      stream.starts,
      stream.sizes,
      x.owner.scalar_type() == at::kBFloat16 ? SsdPlan::kTwoBlocksEach : SsdPlan::kOneBlockEach);
  at::Tensor y = at::empty(in.x_THP.sizes(), in.x_THP.options());
  const at::Tensor states =
      at::empty({final_states ? sizes.B : 0, sizes.H, sizes.P, sizes.N}, plan.state_options);
  if (sizes.B == 0) {
    return {y, states};
  }
  SsdSource incoming =
      start.states_SHPN.has_value() ? SsdSource(*start.states_SHPN, start.slots_B) : SsdSource();
  if (plan.cut()) {
    const SsdWalk walk{SsdDirection::kForward, x, B, time, incoming, /*ends=*/false};
    incoming = SsdSource(enter_segments(launcher, plan, walk).entering_states);
  }
  const SsdForwardInputs inputs{x.rows, B.rows, C.rows, skip.inputs, incoming.states};
  float* leaving = final_states ? states.mutable_data_ptr<float>() : nullptr;
  if (!hopper) {
    launch_forward(launcher, plan, time, inputs, y, leaving);
    return {z_THP ? gate_outputs(y, *z_THP) : y, states};
  }
  const std::optional<SsdTokens> z = z_THP ? std::optional<SsdTokens>(*z_THP) : std::nullopt;
  const bool gates = z && z->rows.packed;
  launch_hopper_forward(launcher, plan, time, inputs, gates ? &z->rows : nullptr, y, leaving);
  return {z && !gates ? gate_outputs(y, *z_THP) : y, states};
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
    bool final_states,
    const OptionalTensor& z) {
  const SsdInputs inputs{
      x, dt, A, B, C, starts, D, {dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)}};
  const SsdStart start{initial_states, initial_slots};
  const SsdSizes sizes = checked_ssd_inputs(inputs, start);
  check_devices(inputs, start);
  if (z) {
    check_same("z", *z, "x", x);
  }
  return run_forward(inputs, start, sizes, final_states, z);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("ssd", &ssd_cuda);
}

} // namespace baton::ops::cuda
