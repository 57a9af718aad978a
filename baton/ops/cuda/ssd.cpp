// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd.h"

#include <optional>
#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/ssd_forward.h"
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

/// The parameters of a convolution as kernels take them.
struct ConvolutionParameters {
  explicit ConvolutionParameters(const ScanConvolution* given) {
    if (given == nullptr) {
      return;
    }
    weight = given->weight_CK.contiguous();
    of_kernels = {
        weight.const_data_ptr(),
        nullptr,
        static_cast<int>(weight.size(1)),
        weight.scalar_type() == at::kFloat,
        false};
    if (given->bias_C) {
      bias = given->bias_C->contiguous();
      of_kernels.bias = bias.const_data_ptr();
      of_kernels.fp32_bias = bias.scalar_type() == at::kFloat;
    }
  }

  at::Tensor weight;
  at::Tensor bias;
  SsdConvolution of_kernels{};
};

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
  SsdOutput out = run_ssd(inputs, start, sizes, final_states, z);
  return {std::move(out.y_THP), std::move(out.final_states_BHPN)};
}

} // namespace

bool scan_convolves(
    const at::Tensor& x_THP,
    const SsdSizes& sizes,
    const ScanConvolution& convolution) {
  // Not of segments, since the walk that makes their states is shorter than a convolution. Two
  // sequences, however uneven, do without them at half as many blocks.
  const std::int64_t blocks = sizes.B * sizes.H;
  const bool uncut =
      blocks >= SsdPlan::kTwoBlocksEach || (blocks >= SsdPlan::kOneBlockEach && sizes.B <= 2);
  const SsdTokens x(x_THP);
  return uncut && !are_short(sizes) && convolution.weight_CK.size(1) <= kSsdConvWidth &&
         x.owner.is_same(x_THP) && takes_hopper(Launcher(x_THP), x_THP.scalar_type(), sizes, {&x});
}

SsdOutput run_ssd(
    const SsdInputs& in,
    const SsdStart& start,
    const SsdSizes& sizes,
    bool final_states,
    const OptionalTensor& z_THP,
    const ScanConvolution* given_convolution) {
  const SsdTokens x(in.x_THP);
  const SsdTokens B(in.B_TGN);
  const SsdTokens C(in.C_TGN);
  const SsdSkip skip(in.D);
  const ConvolutionParameters convolution(given_convolution);
  const bool convolves = given_convolution != nullptr;
  const Launcher launcher(in.x_THP);
  const SsdStream stream = join_short_sequences(
      launcher, in.starts, sizes, final_states || start.states_SHPN.has_value());
  const SsdTime time(in.dt_TH, in.A_H, in.time_step, stream.marks);
  const bool hopper = takes_hopper(launcher, in.x_THP.scalar_type(), sizes, {&x, &B, &C});
  const SsdPlan plan(
      in.x_THP,
      stream.starts,
      stream.sizes,
      x.owner.scalar_type() == at::kBFloat16 && !convolves ? SsdPlan::kTwoBlocksEach
                                                           : SsdPlan::kOneBlockEach);
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
  const SsdForwardInputs inputs{
      x.rows, B.rows, C.rows, skip.inputs, incoming.states, convolution.of_kernels};
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

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("ssd", &ssd_cuda);
}

} // namespace baton::ops::cuda
