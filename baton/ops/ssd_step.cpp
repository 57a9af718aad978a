// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_step.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"

namespace baton::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using StepSignature = Tensor(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool,
    double,
    std::optional<double>);

Tensor step_meta(
    const Tensor& x,
    const Tensor& dt,
    const Tensor& A,
    const Tensor& B,
    const Tensor& C,
    Tensor& states,
    const Tensor& slots,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  return at::empty_symint(x.sym_sizes(), x.options());
}

} // namespace

Tensor ssd_step_(const SsdStepInputs& in, Tensor& states_SHPN, const Tensor& slots_B) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::ssd_step_", "").typed<StepSignature>();
  return op.call(
      in.x_BHP,
      in.dt_BH,
      in.A_H,
      in.B_BGN,
      in.C_BGN,
      states_SHPN,
      slots_B,
      in.D,
      in.time_step.bias_H,
      in.time_step.softplus,
      in.time_step.min,
      in.time_step.max);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "ssd_step_(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor(a!) states, "
      "Tensor slots, Tensor? D=None, Tensor? dt_bias=None, bool dt_softplus=True, "
      "float dt_min=0., float? dt_max=None) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("ssd_step_", &step_meta);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("ssd_step_", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
