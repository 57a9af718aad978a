// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_inputs.h"

#include <ATen/ATen.h>

#include "baton/ops/slots.h"

namespace baton::ops {
namespace {

void check_activation(
    const char* name,
    const at::Tensor& tensor,
    at::IntArrayRef shape,
    at::ScalarType dtype) {
  TORCH_CHECK(tensor.sizes() == shape, name, " must have shape ", shape, ", not ", tensor.sizes());
  TORCH_CHECK(
      tensor.scalar_type() == dtype,
      name,
      " must be ",
      dtype,
      " like x, not ",
      tensor.scalar_type());
}

void check_parameter(
    const char* name,
    const at::Tensor& tensor,
    at::IntArrayRef shape,
    at::ScalarType state_dtype) {
  TORCH_CHECK(tensor.sizes() == shape, name, " must have shape ", shape, ", not ", tensor.sizes());
  TORCH_CHECK(
      at::isFloatingType(tensor.scalar_type()) &&
          (tensor.scalar_type() != at::kDouble || state_dtype == at::kDouble),
      name,
      " must be floating and no wider than ",
      state_dtype,
      ", not ",
      tensor.scalar_type());
}

} // namespace

at::ScalarType ssd_state_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

SsdSizes checked_ssd_sizes(
    const at::Tensor& values_THP,
    const at::Tensor& dt_TH,
    const at::Tensor& A_H,
    const at::Tensor& keys_TGN,
    const at::Tensor& starts,
    const SsdTimeStep& time_step) {
  TORCH_CHECK(
      values_THP.dim() == 3, "x (or dy) must have dims [T, H, P], not ", values_THP.sizes());
  TORCH_CHECK(keys_TGN.dim() == 3, "B (or C) must have dims [T, G, N], not ", keys_TGN.sizes());
  TORCH_CHECK(
      starts.dim() == 1 && starts.size(0) >= 1,
      "starts must have dims [B + 1], not ",
      starts.sizes());
  const at::ScalarType dtype = values_THP.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16,
      "the scan takes fp64, fp32 or bf16, not ",
      dtype);
  const SsdSizes sizes{
      values_THP.size(0),
      values_THP.size(1),
      values_THP.size(2),
      keys_TGN.size(1),
      keys_TGN.size(2),
      starts.size(0) - 1};
  TORCH_CHECK(
      sizes.H > 0 && sizes.P > 0 && sizes.G > 0 && sizes.N > 0,
      "heads, head dim, groups and state dim must be positive: H ",
      sizes.H,
      ", P ",
      sizes.P,
      ", G ",
      sizes.G,
      ", N ",
      sizes.N);
  TORCH_CHECK(sizes.B > 0 || sizes.T == 0, "starts names no sequence for ", sizes.T, " tokens");
  TORCH_CHECK(
      sizes.H % sizes.G == 0, "heads must be a multiple of groups: ", sizes.H, " vs ", sizes.G);
  const at::ScalarType state_dtype = ssd_state_dtype(values_THP);
  check_activation("B (or C)", keys_TGN, {sizes.T, sizes.G, sizes.N}, dtype);
  check_parameter("dt", dt_TH, {sizes.T, sizes.H}, state_dtype);
  check_parameter("A", A_H, {sizes.H}, state_dtype);
  if (time_step.bias_H.has_value()) {
    check_parameter("dt_bias", *time_step.bias_H, {sizes.H}, state_dtype);
  }
  TORCH_CHECK(
      time_step.min <= time_step.max,
      "dt_min must not be above dt_max: ",
      time_step.min,
      " vs ",
      time_step.max);
  return sizes;
}

void check_ssd_skip(const std::optional<at::Tensor>& D, const SsdSizes& sizes) {
  if (!D.has_value()) {
    return;
  }
  TORCH_CHECK(
      D->sizes() == at::IntArrayRef({sizes.H}) || D->sizes() == at::IntArrayRef({sizes.H, sizes.P}),
      "D must have shape [",
      sizes.H,
      "] or [",
      sizes.H,
      ", ",
      sizes.P,
      "], not ",
      D->sizes());
  TORCH_CHECK(at::isFloatingType(D->scalar_type()), "D must be floating, not ", D->scalar_type());
}

void check_ssd_states(
    const at::Tensor& states,
    bool has_slots,
    const SsdSizes& sizes,
    at::ScalarType state_dtype) {
  TORCH_CHECK(
      states.dim() == 4 && states.size(1) == sizes.H && states.size(2) == sizes.P &&
          states.size(3) == sizes.N,
      "states must have shape [S, ",
      sizes.H,
      ", ",
      sizes.P,
      ", ",
      sizes.N,
      "], not ",
      states.sizes());
  TORCH_CHECK(
      states.scalar_type() == state_dtype,
      "states must be ",
      state_dtype,
      ", not ",
      states.scalar_type());
  TORCH_CHECK(
      has_slots || states.size(0) == sizes.B,
      "without slots there must be one state a sequence: ",
      states.size(0),
      " states, ",
      sizes.B,
      " sequences");
}

SsdSizes checked_ssd_inputs(const SsdInputs& inputs, const SsdStart& start) {
  const SsdSizes sizes = checked_ssd_sizes(
      inputs.x_THP, inputs.dt_TH, inputs.A_H, inputs.B_TGN, inputs.starts, inputs.time_step);
  check_activation("C", inputs.C_TGN, {sizes.T, sizes.G, sizes.N}, inputs.x_THP.scalar_type());
  check_ssd_skip(inputs.D, sizes);
  TORCH_CHECK(
      start.states_SHPN.has_value() || !start.slots_B.has_value(),
      "initial_slots need initial_states");
  if (start.states_SHPN.has_value()) {
    check_ssd_states(
        *start.states_SHPN, start.slots_B.has_value(), sizes, ssd_state_dtype(inputs.x_THP));
  }
  if (start.slots_B.has_value()) {
    check_slots("initial_slots", *start.slots_B, sizes.B);
  }
  return sizes;
}

std::vector<std::int64_t>
checked_slots(const std::optional<at::Tensor>& slots_B, std::int64_t B, std::int64_t S) {
  std::vector<std::int64_t> slots(static_cast<std::size_t>(B));
  if (!slots_B.has_value()) {
    for (std::int64_t b = 0; b < B; ++b) {
      slots[b] = b;
    }
    return slots;
  }
  TORCH_CHECK(
      slots_B->scalar_type() == at::kInt && slots_B->sizes() == at::IntArrayRef({B}),
      "slots must be int32 [",
      B,
      "], not ",
      slots_B->scalar_type(),
      " ",
      slots_B->sizes());
  const at::Tensor dense = slots_B->contiguous();
  const std::int32_t* data = dense.const_data_ptr<std::int32_t>();
  for (std::int64_t b = 0; b < B; ++b) {
    TORCH_CHECK(
        data[b] >= -1 && data[b] < S,
        "slot of sequence ",
        b,
        " must lie in [-1, ",
        S,
        "): ",
        data[b]);
    slots[b] = data[b];
  }
  return slots;
}

} // namespace baton::ops
