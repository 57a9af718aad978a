// SPDX-License-Identifier: Apache-2.0
// The backward scan on the CPU: the operator, and the gradients of what makes the time steps.
#include <torch/library.h>

#include "baton/ops/cpu/ssd_gradients.h"
#include "baton/ops/cpu/ssd_sweep.h"
#include "baton/ops/cpu/tile_product.h"
#include "baton/ops/ssd_gradient_checks.h"

namespace baton::ops::cpu {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using Gradients8 = std::tuple<
    at::Tensor,
    at::Tensor,
    at::Tensor,
    at::Tensor,
    at::Tensor,
    at::Tensor,
    at::Tensor,
    at::Tensor>;

// From the gradients of dt and of dt A to those of raw dt, A and bias, head by head.
template <class Real>
struct TimeStepGradients {
  TimeStepGradients(const SsdPlan<Real>& plan, const at::Tensor& ddt_HT, const at::Tensor& dlog_HT)
      : ddt_TH(at::empty_like(plan.raw_TH)),
        dA_H(at::empty_like(plan.A_H)),
        dbias_H(at::empty_like(plan.A_H)) {
    const std::int64_t T = plan.sizes.T;
    const std::int64_t H = plan.sizes.H;
    const Real* direct = ddt_HT.const_data_ptr<Real>();
    const Real* dlog = dlog_HT.const_data_ptr<Real>();
    const Real* a = plan.A_H.template const_data_ptr<Real>();
    Real* ddt = ddt_TH.mutable_data_ptr<Real>();
    for_each_item(
        static_cast<std::int64_t>(plan.chunks.size()),
        [] { return 0; },
        [&](int, std::int64_t c) {
          const SsdChunk& chunk = plan.chunks[c];
          for (std::int64_t t = chunk.first; t < chunk.first + chunk.rows; ++t) {
            for (std::int64_t h = 0; h < H; ++h) {
              ddt[t * H + h] = direct[h * T + t] + a[h] * dlog[h * T + t];
            }
            ssd_rows<Real>().time_step_gradients(
                plan.rule,
                H,
                plan.raw_TH.template const_data_ptr<Real>() + t * H,
                plan.bias(),
                ddt + t * H);
          }
        });
    Real* dA = dA_H.mutable_data_ptr<Real>();
    Real* dbias = dbias_H.mutable_data_ptr<Real>();
    for_each_item(
        H,
        [] { return 0; },
        [&](int, std::int64_t h) {
          double sum_A = 0;
          double sum_bias = 0;
          for (std::int64_t t = 0; t < T; ++t) {
            sum_A += static_cast<double>(dlog[h * T + t]) * static_cast<double>(*plan.dt(h, t));
            sum_bias += static_cast<double>(ddt[t * H + h]);
          }
          dA[h] = static_cast<Real>(sum_A);
          dbias[h] = static_cast<Real>(sum_bias);
        });
  }

  at::Tensor ddt_TH, dA_H, dbias_H;
};

template <class In, class Real>
Gradients8 run_backward(
    const at::Tensor& dy,
    const OptionalTensor& dfinal_states,
    const SsdInputs& inputs,
    const SsdStart& start,
    const SsdSizes& sizes) {
  const SsdPlan<Real> plan(sizes, inputs.dt_TH, inputs.A_H, inputs.starts, inputs.time_step);
  const SsdInitial<Real> initial(start, sizes.B);
  const auto& x = inputs.x_THP;
  at::Tensor dfinal;
  if (dfinal_states.has_value()) {
    dfinal = dfinal_states->contiguous();
  }
  const at::Tensor dinitial =
      start.states_SHPN.has_value()
          ? at::zeros(start.states_SHPN->sizes(), start.states_SHPN->options())
          : at::empty({0}, x.options());
  SsdChunkGradients<In, Real> backward(plan, initial, inputs, dy);
  backward.run(
      dfinal.defined() ? dfinal.const_data_ptr<Real>() : nullptr,
      start.states_SHPN.has_value() ? dinitial.mutable_data_ptr<Real>() : nullptr);
  const TimeStepGradients<Real> steps(plan, backward.ddt_HT, backward.dlog_HT);
  at::Tensor dD = at::empty({0}, x.options());
  if (inputs.D.has_value()) {
    dD = backward.skip_gradient();
    dD = (inputs.D->dim() == 1 ? dD.sum(1) : dD).to(inputs.D->scalar_type());
  }
  const auto& bias = inputs.time_step.bias_H;
  return {
      backward.dx,
      steps.ddt_TH.to(inputs.dt_TH.scalar_type()),
      steps.dA_H.to(inputs.A_H.scalar_type()),
      backward.db,
      backward.dc,
      dD,
      bias.has_value() ? steps.dbias_H.to(bias->scalar_type()) : at::empty({0}, x.options()),
      dinitial};
}

Gradients8 ssd_backward_cpu(
    const at::Tensor& dy,
    const OptionalTensor& dfinal_states,
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
    std::optional<double> dt_max) {
  const SsdInputs inputs{
      x, dt, A, B, C, starts, D, {dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)}};
  const SsdStart start{initial_states, initial_slots};
  const SsdSizes sizes = checked_ssd_inputs(inputs, start);
  check_ssd_gradients(dy, dfinal_states, x, sizes);
  if (x.scalar_type() == at::kDouble) {
    return run_backward<double, double>(dy, dfinal_states, inputs, start, sizes);
  }
  return x.scalar_type() == at::kFloat
             ? run_backward<float, float>(dy, dfinal_states, inputs, start, sizes)
             : run_backward<c10::BFloat16, float>(dy, dfinal_states, inputs, start, sizes);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("ssd_backward", &ssd_backward_cpu);
}

} // namespace baton::ops::cpu
