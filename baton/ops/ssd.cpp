// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd.h"

#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"
#include "baton/ops/gated_norm.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/wants_gradient.h"

namespace baton::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Gradients8 = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

using SsdSignature = std::tuple<Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool,
    double,
    std::optional<double>,
    bool,
    const OptionalTensor&);
using BackwardSignature = Gradients8(
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool,
    double,
    std::optional<double>);

const c10::TypedOperatorHandle<SsdSignature>& ssd_operator() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::ssd", "").typed<SsdSignature>();
  return handle;
}

const c10::TypedOperatorHandle<BackwardSignature>& backward_operator() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("baton::ssd_backward", "")
                                 .typed<BackwardSignature>();
  return handle;
}

OptionalTensor given(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

struct SsdFunction : torch::autograd::Function<SsdFunction> {
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& dt,
      const Tensor& A,
      const Tensor& B,
      const Tensor& C,
      const Tensor& starts,
      const OptionalTensor& D,
      const OptionalTensor& dt_bias,
      const OptionalTensor& initial_states,
      const OptionalTensor& initial_slots,
      bool dt_softplus,
      double dt_min,
      std::optional<double> dt_max,
      bool final_states) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward(
        {x,
         dt,
         A,
         B,
         C,
         starts,
         D.value_or(Tensor()),
         dt_bias.value_or(Tensor()),
         initial_states.value_or(Tensor()),
         initial_slots.value_or(Tensor())});
    context->saved_data["dt_softplus"] = dt_softplus;
    context->saved_data["dt_min"] = dt_min;
    context->saved_data["dt_max"] = dt_max.value_or(kNoTimeStepLimit);
    context->set_materialize_grads(false);
    auto [y, states] = ssd_operator().call(
        x,
        dt,
        A,
        B,
        C,
        starts,
        D,
        dt_bias,
        initial_states,
        initial_slots,
        dt_softplus,
        dt_min,
        dt_max,
        final_states,
        std::nullopt);
    return {y, states};
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      torch::autograd::variable_list outputs) {
    const auto saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor dy = outputs[0].defined() ? outputs[0] : at::zeros_like(x);
    auto [dx, ddt, dA, dB, dC, dD, ddt_bias, dinitial] = backward_operator().call(
        dy,
        given(outputs[1]),
        x,
        saved[1],
        saved[2],
        saved[3],
        saved[4],
        saved[5],
        given(saved[6]),
        given(saved[7]),
        given(saved[8]),
        given(saved[9]),
        context->saved_data["dt_softplus"].toBool(),
        context->saved_data["dt_min"].toDouble(),
        context->saved_data["dt_max"].toDouble());
    const auto if_given = [&](std::size_t i, const Tensor& gradient) {
      return saved[i].defined() ? gradient : Tensor();
    };
    return {
        dx,
        ddt,
        dA,
        dB,
        dC,
        Tensor(),
        if_given(6, dD),
        if_given(7, ddt_bias),
        if_given(8, dinitial),
        Tensor(),
        Tensor(),
        Tensor(),
        Tensor(),
        Tensor()};
  }
};

std::tuple<Tensor, Tensor> ssd_autograd(
    const Tensor& x,
    const Tensor& dt,
    const Tensor& A,
    const Tensor& B,
    const Tensor& C,
    const Tensor& starts,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max,
    bool final_states,
    const OptionalTensor& z) {
  if (z && !wants_gradient({x, dt, A, B, C, D, dt_bias, initial_states, z})) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ssd_operator().call(
        x,
        dt,
        A,
        B,
        C,
        starts,
        D,
        dt_bias,
        initial_states,
        initial_slots,
        dt_softplus,
        dt_min,
        dt_max,
        final_states,
        z);
  }
  auto outputs = SsdFunction::apply(
      x,
      dt,
      A,
      B,
      C,
      starts,
      D,
      dt_bias,
      initial_states,
      initial_slots,
      dt_softplus,
      dt_min,
      dt_max,
      final_states);
  // The gate's gradient reads what it is multiplied by, so that this is kept, and gated here.
  return {z ? gate_outputs(outputs[0], *z) : outputs[0], outputs[1]};
}

std::tuple<Tensor, Tensor> ssd_meta(
    const Tensor& x,
    const Tensor& dt,
    const Tensor& A,
    const Tensor& B,
    const Tensor& C,
    const Tensor& starts,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max,
    bool final_states,
    const OptionalTensor& z) {
  if (z) {
    check_same("z", *z, "x", x);
  }
  TORCH_CHECK(
      x.dim() == 3 && B.dim() == 3 && starts.dim() == 1,
      "x must have dims [T, H, P], B [T, G, N], starts [B + 1]");
  return {
      at::empty_symint(x.sym_sizes(), x.options()),
      at::empty_symint(
          {final_states ? starts.sym_size(0) - 1 : c10::SymInt(0),
           x.sym_size(1),
           x.sym_size(2),
           B.sym_size(2)},
          x.options().dtype(ssd_state_dtype(x)))};
}

Tensor empty_like_optional(const OptionalTensor& tensor, const Tensor& x) {
  return tensor.has_value() ? at::empty_symint(tensor->sym_sizes(), tensor->options())
                            : at::empty({0}, x.options());
}

Gradients8 ssd_backward_meta(
    const Tensor& dy,
    const OptionalTensor& dfinal_states,
    const Tensor& x,
    const Tensor& dt,
    const Tensor& A,
    const Tensor& B,
    const Tensor& C,
    const Tensor& starts,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  const auto like = [](const Tensor& tensor) {
    return at::empty_symint(tensor.sym_sizes(), tensor.options());
  };
  return {
      like(x),
      like(dt),
      like(A),
      like(B),
      like(C),
      empty_like_optional(D, x),
      empty_like_optional(dt_bias, x),
      empty_like_optional(initial_states, x)};
}

} // namespace

SsdOutput
ssd(const SsdInputs& in, const SsdStart& start, bool final_states, const OptionalTensor& z_THP) {
  auto [y, states] = ssd_operator().call(
      in.x_THP,
      in.dt_TH,
      in.A_H,
      in.B_TGN,
      in.C_TGN,
      in.starts,
      in.D,
      in.time_step.bias_H,
      start.states_SHPN,
      start.slots_B,
      in.time_step.softplus,
      in.time_step.min,
      in.time_step.max,
      final_states,
      z_THP);
  return {std::move(y), std::move(states)};
}

SsdGradients ssd_backward(
    const Tensor& dy_THP,
    const OptionalTensor& dfinal_states_BHPN,
    const SsdInputs& in,
    const SsdStart& start) {
  auto [dx, ddt, dA, dB, dC, dD, ddt_bias, dinitial] = backward_operator().call(
      dy_THP,
      dfinal_states_BHPN,
      in.x_THP,
      in.dt_TH,
      in.A_H,
      in.B_TGN,
      in.C_TGN,
      in.starts,
      in.D,
      in.time_step.bias_H,
      start.states_SHPN,
      start.slots_B,
      in.time_step.softplus,
      in.time_step.min,
      in.time_step.max);
  return {
      std::move(dx),
      std::move(ddt),
      std::move(dA),
      std::move(dB),
      std::move(dC),
      std::move(dD),
      std::move(ddt_bias),
      std::move(dinitial)};
}

Tensor gate_outputs(const Tensor& y_THP, const Tensor& z_THP) {
  // A token's channels are one row, so that z is read where it lies.
  const Tensor y_TI = y_THP.flatten(1);
  return gated_norm(y_TI, z_THP.flatten(1), std::nullopt, {}).view_symint(y_THP.sym_sizes());
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "ssd(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor starts, Tensor? D=None, "
      "Tensor? dt_bias=None, Tensor? initial_states=None, Tensor? initial_slots=None, "
      "bool dt_softplus=True, float dt_min=0., float? dt_max=None, bool final_states=True, "
      "Tensor? z=None) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "ssd_backward(Tensor dy, Tensor? dfinal_states, Tensor x, Tensor dt, Tensor A, Tensor B, "
      "Tensor C, Tensor starts, Tensor? D=None, Tensor? dt_bias=None, "
      "Tensor? initial_states=None, Tensor? initial_slots=None, bool dt_softplus=True, "
      "float dt_min=0., float? dt_max=None) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("ssd", &ssd_meta);
  library.impl("ssd_backward", &ssd_backward_meta);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("ssd", &ssd_autograd);
  library.impl("ssd_backward", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
