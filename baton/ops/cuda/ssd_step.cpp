// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_step.h"

#include <cstdint>
#include <optional>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/ssd_plan.h"
#include "baton/ops/slots.h"

namespace baton::ops::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr std::int64_t kMostGridRows = 65535; // blockIdx.y and .z go no further

// A row per sequence is a sequence of one token, so the checks of the scan hold here too. The
// values of slots are on the device: nobody reads them here.
SsdSizes checked_step(const SsdStepInputs& in, const at::Tensor& states, const at::Tensor& slots) {
  TORCH_CHECK(in.x_BHP.dim() == 3, "x must have dims [B, H, P], not ", in.x_BHP.sizes());
  const at::Tensor starts = at::empty({in.x_BHP.size(0) + 1}, at::kInt);
  const SsdSizes sizes =
      checked_ssd_sizes(in.x_BHP, in.dt_BH, in.A_H, in.B_BGN, starts, in.time_step);
  TORCH_CHECK(
      in.C_BGN.sizes() == in.B_BGN.sizes() && in.C_BGN.scalar_type() == in.B_BGN.scalar_type(),
      "C must be like B: ",
      in.C_BGN.scalar_type(),
      " ",
      in.C_BGN.sizes(),
      " vs ",
      in.B_BGN.scalar_type(),
      " ",
      in.B_BGN.sizes());
  check_ssd_skip(in.D, sizes);
  check_ssd_states(states, true, sizes, ssd_state_dtype(in.x_BHP));
  check_dense_slots(states);
  TORCH_CHECK(
      slots.scalar_type() == at::kInt && slots.sizes() == at::IntArrayRef({sizes.B}),
      "slots must be int32 [",
      sizes.B,
      "], not ",
      slots.scalar_type(),
      " ",
      slots.sizes());
  TORCH_CHECK_NOT_IMPLEMENTED(
      in.x_BHP.scalar_type() != at::kDouble, "the scan on a GPU takes fp32 or bf16, not fp64");
  return sizes;
}

/// The group of a head below kMostGridRows is (head * factor) >> 32; 0 where each head is a group.
unsigned group_factor(const SsdSizes& sizes) {
  const std::int64_t heads = sizes.H / sizes.G;
  return heads == 1 ? 0 : static_cast<unsigned>((std::int64_t{1} << 32) / heads + 1);
}

void check_devices(const SsdStepInputs& in, const at::Tensor& states, const at::Tensor& slots) {
  check_device("dt", in.dt_BH, in.x_BHP);
  check_device("A", in.A_H, in.x_BHP);
  check_device("B", in.B_BGN, in.x_BHP);
  check_device("C", in.C_BGN, in.x_BHP);
  check_device("D", in.D, in.x_BHP);
  check_device("dt_bias", in.time_step.bias_H, in.x_BHP);
  check_device("states", states, in.x_BHP);
  check_device("slots", slots, in.x_BHP);
}

at::Tensor run_step(
    const SsdStepInputs& in,
    at::Tensor& states,
    const at::Tensor& slots,
    const SsdSizes& sizes) {
  at::Tensor y = at::empty(in.x_BHP.sizes(), in.x_BHP.options());
  if (sizes.B == 0) {
    return y;
  }
  TORCH_CHECK(
      sizes.B <= kMostGridRows && sizes.H <= kMostGridRows,
      "a step on a GPU takes 65535 sequences and as many heads, got ",
      sizes.B,
      " and ",
      sizes.H);
  const SsdTokens x(in.x_BHP);
  const SsdTokens B(in.B_BGN);
  const SsdTokens C(in.C_BGN);
  const SsdTime time(in.dt_BH, in.A_H, in.time_step);
  const SsdSkip skip(in.D);
  const SsdSource source(states, slots);
  const SsdStepKernel step = ssd_step_kernel(
      in.x_BHP.scalar_type(), sizes.N, B.rows.packed && C.rows.packed && source.states.packed);
  const std::int64_t tiles = (sizes.P + step.channels - 1) / step.channels;
  const SsdLayout layout{
      nullptr,
      1,
      static_cast<int>(sizes.B),
      static_cast<int>(sizes.H),
      static_cast<int>(sizes.P),
      static_cast<int>(sizes.G),
      static_cast<int>(sizes.N)};
  const Launcher launcher(in.x_BHP);
  launcher.launch(
      step.kernel.spec,
      {.grid =
           {static_cast<unsigned>(tiles),
            static_cast<unsigned>(sizes.H),
            static_cast<unsigned>(sizes.B)},
       .block = {step.kernel.threads, 1, 1},
       .overlaps = true},
      layout,
      time.inputs,
      SsdForwardInputs{x.rows, B.rows, C.rows, skip.inputs, source.states, /*convolution=*/{}},
      states.mutable_data_ptr<float>(),
      y.mutable_data_ptr(),
      group_factor(sizes));
  return y;
}

at::Tensor step_cuda(
    const at::Tensor& x,
    const at::Tensor& dt,
    const at::Tensor& A,
    const at::Tensor& B,
    const at::Tensor& C,
    at::Tensor& states,
    const at::Tensor& slots,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  const SsdStepInputs in{
      x, dt, A, B, C, D, {dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)}};
  const SsdSizes sizes = checked_step(in, states, slots);
  check_devices(in, states, slots);
  return run_step(in, states, slots, sizes);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("ssd_step_", &step_cuda);
}

} // namespace baton::ops::cuda
