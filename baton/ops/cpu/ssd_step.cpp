// SPDX-License-Identifier: Apache-2.0
// One token of the scan on the CPU: every state is read and written once.
#include "baton/ops/ssd_step.h"

#include <optional>
#include <set>
#include <type_traits>

#include <torch/library.h>

#include "baton/ops/cpu/ssd_step.h"
#include "baton/ops/slots.h"

namespace baton::ops::cpu {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// A row per sequence is a sequence of one token, so the checks of the scan hold here too.
SsdSizes checked_step(
    const SsdStepInputs& in,
    const at::Tensor& states,
    const std::vector<std::int64_t>& slots) {
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
  std::set<std::int64_t> seen;
  for (const std::int64_t slot : slots) {
    TORCH_CHECK(slot < 0 || seen.insert(slot).second, "two sequences use state slot ", slot);
  }
  return sizes;
}

/// The values of `rows` [B, H], of any floating type, side by side.
template <class Real>
void widen_rows(const at::Tensor& rows, Real* out) {
  const at::ScalarType dtype = c10::CppTypeToScalarType<Real>::value;
  const std::int64_t columns = rows.size(1);
  const bool narrow = rows.scalar_type() == at::kBFloat16 && dtype == at::kFloat;
  const at::Tensor typed = narrow ? rows : rows.to(dtype);
  const at::Tensor dense = typed.stride(1) == 1 ? typed : typed.contiguous();
  for (std::int64_t row = 0; row < rows.size(0); ++row, out += columns) {
    const std::int64_t first = row * dense.stride(0);
    if constexpr (std::is_same_v<Real, float>) {
      if (narrow) {
        widen_row(columns, dense.const_data_ptr<c10::BFloat16>() + first, out);
        continue;
      }
    }
    std::copy_n(dense.const_data_ptr<Real>() + first, columns, out);
  }
}

template <class In, class Real>
at::Tensor run_step(
    const SsdStepInputs& in,
    at::Tensor& states,
    const SsdSizes& sizes,
    const std::vector<std::int64_t>& slots) {
  const std::int64_t num_rows = sizes.T;
  const std::int64_t num_heads = sizes.H;
  const at::ScalarType dtype = c10::CppTypeToScalarType<Real>::value;
  const at::Tensor A = in.A_H.to(dtype).contiguous();
  const at::Tensor skip = in.D ? in.D->to(dtype).contiguous() : at::Tensor();
  const at::Tensor bias =
      in.time_step.bias_H.has_value() ? in.time_step.bias_H->to(dtype).contiguous() : at::Tensor();
  const TimeStepRule rule{in.time_step.softplus, in.time_step.min, in.time_step.max};
  const at::Tensor x_owner = with_dense_rows(in.x_BHP);
  const at::Tensor b_owner = with_dense_rows(in.B_BGN);
  const at::Tensor c_owner = with_dense_rows(in.C_BGN);
  at::Tensor y = at::empty(in.x_BHP.sizes(), in.x_BHP.options());
  const Scratch<Real> dt = make_scratch<Real>(num_rows * num_heads);
  widen_rows(in.dt_BH, dt.get());
  for (std::int64_t row = 0; row < num_rows; ++row) {
    Real* steps = dt.get() + row * num_heads;
    ssd_rows<Real>().time_steps(
        rule, num_heads, steps, bias.defined() ? bias.const_data_ptr<Real>() : nullptr, steps);
  }
  const SsdStepTask<In, Real> task{
      .sizes = sizes,
      .x = token_rows<In>(x_owner),
      .b = token_rows<In>(b_owner),
      .c = token_rows<In>(c_owner),
      .dt_BH = dt.get(),
      .A_H = A.const_data_ptr<Real>(),
      .skip = skip.defined() ? skip.const_data_ptr<Real>() : nullptr,
      .skip_per_channel = skip.defined() && skip.dim() == 2,
      .states_SHPN = states.mutable_data_ptr<Real>(),
      .slot_stride = states.stride(0),
      .slots = slots.data(),
      .y_BHP = y.mutable_data_ptr<In>()};
  for_each_item(
      num_rows * num_heads,
      [&] { return make_scratch<Real>(SsdStepRoom<Real>::size(sizes)); },
      [&](const Scratch<Real>& scratch, std::int64_t item) {
        run_ssd_step_item(task, SsdStepRoom<Real>(sizes, scratch.get()), item);
      });
  return y;
}

at::Tensor step_cpu(
    const at::Tensor& x,
    const at::Tensor& dt,
    const at::Tensor& A,
    const at::Tensor& B,
    const at::Tensor& C,
    at::Tensor& states,
    const at::Tensor& slots_B,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  TORCH_CHECK(x.dim() == 3, "x must have dims [B, H, P], not ", x.sizes());
  TORCH_CHECK(states.dim() == 4, "states must have dims [S, H, P, N], not ", states.sizes());
  const SsdStepInputs in{
      x, dt, A, B, C, D, {dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)}};
  const std::vector<std::int64_t> slots = checked_slots(slots_B, x.size(0), states.size(0));
  const SsdSizes sizes = checked_step(in, states, slots);
  if (x.scalar_type() == at::kDouble) {
    return run_step<double, double>(in, states, sizes, slots);
  }
  return x.scalar_type() == at::kFloat ? run_step<float, float>(in, states, sizes, slots)
                                       : run_step<c10::BFloat16, float>(in, states, sizes, slots);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("ssd_step_", &step_cpu);
}

} // namespace baton::ops::cpu
