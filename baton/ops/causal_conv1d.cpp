// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/causal_conv1d.h"

#include <tuple>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/slots.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using OptionalTensor = std::optional<at::Tensor>;
using Forward = std::tuple<at::Tensor, at::Tensor>(
    const at::Tensor&,
    const at::Tensor&,
    const OptionalTensor&,
    const at::Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool);
using Backward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&,
    const OptionalTensor&,
    const at::Tensor&,
    const at::Tensor&,
    const OptionalTensor&,
    const at::Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool);
using Step = at::Tensor(
    const at::Tensor&,
    const at::Tensor&,
    const OptionalTensor&,
    const at::Tensor&,
    const at::Tensor&,
    bool);

std::tuple<at::Tensor, at::Tensor> call_forward(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool silu) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::causal_conv1d", "").typed<Forward>();
  return op.call(x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
}

CausalConv1dGradients call_backward(
    const at::Tensor& dy_TC,
    const OptionalTensor& dfinal_states,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::causal_conv1d_backward", "")
                             .typed<Backward>();
  auto [dx, dweight, dbias, dstates] = op.call(
      dy_TC,
      dfinal_states,
      x_TC,
      weight_CK,
      bias_C,
      starts_B1,
      states.initial_states,
      states.initial_slots_B,
      silu);
  return {
      dx, dweight, bias_C ? dbias : at::Tensor(), states.initial_states ? dstates : at::Tensor()};
}

OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

class CausalConv1dFunction : public torch::autograd::Function<CausalConv1dFunction> {
 public:
  static variable_list forward(
      AutogradContext* context,
      const at::Tensor& x_TC,
      const at::Tensor& weight_CK,
      const OptionalTensor& bias_C,
      const at::Tensor& starts_B1,
      const OptionalTensor& initial_states,
      const OptionalTensor& initial_slots_B,
      bool silu) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward(
        {x_TC,
         weight_CK,
         bias_C.value_or(at::Tensor()),
         starts_B1,
         initial_states.value_or(at::Tensor()),
         initial_slots_B.value_or(at::Tensor())});
    context->saved_data["silu"] = silu;
    context->set_materialize_grads(false);
    auto [y_TC, final_states] =
        call_forward(x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
    return {y_TC, final_states};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor dy_TC = gradients[0].defined()
                                 ? gradients[0]
                                 : at::zeros_like(saved[0], at::MemoryFormat::Contiguous);
    const CausalConv1dGradients all = call_backward(
        dy_TC,
        optional(gradients[1]),
        saved[0],
        saved[1],
        optional(saved[2]),
        saved[3],
        {.initial_states = optional(saved[4]), .initial_slots_B = optional(saved[5])},
        context->saved_data["silu"].toBool());
    return {
        all.dx_TC,
        all.dweight_CK,
        all.dbias_C,
        at::Tensor(),
        all.dinitial_states,
        at::Tensor(),
        at::Tensor()};
  }
};

std::tuple<at::Tensor, at::Tensor> causal_conv1d_autograd(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool silu) {
  const variable_list out = CausalConv1dFunction::apply(
      x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
  return {out[0], out[1]};
}

std::tuple<at::Tensor, at::Tensor> causal_conv1d_meta(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool) {
  check_causal_conv1d(
      x_TC, weight_CK, bias_C, starts_B1.sym_size(0) - 1, initial_states, initial_slots_B);
  const auto dtype = initial_states ? initial_states->scalar_type() : x_TC.scalar_type();
  return {
      at::empty_symint(x_TC.sym_sizes(), x_TC.options()),
      at::empty_symint(
          {starts_B1.sym_size(0) - 1, x_TC.sym_size(1), weight_CK.sym_size(1) - 1},
          x_TC.options().dtype(dtype))};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> causal_conv1d_backward_meta(
    const at::Tensor&,
    const OptionalTensor&,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor&,
    const OptionalTensor& initial_states,
    const OptionalTensor&,
    bool) {
  const auto like = [&](const OptionalTensor& tensor) {
    return tensor ? at::empty_symint(tensor->sym_sizes(), tensor->options())
                  : at::empty({0}, x_TC.options());
  };
  return {
      at::empty_symint(x_TC.sym_sizes(), x_TC.options()),
      at::empty_symint(weight_CK.sym_sizes(), weight_CK.options()),
      like(bias_C),
      like(initial_states)};
}

at::Tensor causal_conv1d_step_meta(
    const at::Tensor& x_BC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& states_SCK,
    const at::Tensor& slots_B,
    bool) {
  check_causal_conv1d(x_BC, weight_CK, bias_C, x_BC.sym_size(0), states_SCK, slots_B);
  return at::empty_symint(x_BC.sym_sizes(), x_BC.options());
}

} // namespace

void check_causal_conv1d(
    const at::Tensor& x,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const c10::SymInt& num_sequences,
    const OptionalTensor& states,
    const OptionalTensor& slots) {
  check_activation("x", x);
  TORCH_CHECK(x.dim() == 2, "x must be [T, C], got ", x.sym_sizes());
  TORCH_CHECK(
      weight_CK.dim() == 2 && weight_CK.sym_size(0) == x.sym_size(1),
      "weight must be [C, K]: ",
      weight_CK.sym_sizes(),
      " vs C = ",
      x.sym_size(1));
  TORCH_CHECK(
      weight_CK.sym_size(1) >= 1 && weight_CK.sym_size(1) <= kMaxConvWidth,
      "the width of the convolution must lie in [1, ",
      kMaxConvWidth,
      "], got ",
      weight_CK.sym_size(1));
  check_parameter_type("weight", weight_CK, x);
  if (bias_C) {
    check_channel_parameter("bias", *bias_C, x.sym_size(1), x);
  }
  if (states) {
    TORCH_CHECK(
        states->dim() == 3 && states->sym_size(1) == x.sym_size(1) &&
            states->sym_size(2) == weight_CK.sym_size(1) - 1,
        "states must be [S, C, K-1], got ",
        states->sym_sizes());
    const bool fp32_beside_bf16 =
        states->scalar_type() == at::kFloat && x.scalar_type() == at::kBFloat16;
    TORCH_CHECK(
        states->scalar_type() == x.scalar_type() || fp32_beside_bf16,
        "states must have the dtype of x (",
        x.scalar_type(),
        "), or fp32 beside bf16, got ",
        states->scalar_type());
  }
  TORCH_CHECK(states || !slots, "slots were given without states");
  if (slots) {
    check_slots("slots", *slots, num_sequences);
  } else if (states) {
    TORCH_CHECK(
        states->sym_size(0) == num_sequences,
        "without slots there must be one state a sequence: ",
        states->sym_size(0),
        " vs ",
        num_sequences);
  }
}

CausalConv1dOutput causal_conv1d(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu) {
  auto [y_TC, final_states] = call_forward(
      x_TC, weight_CK, bias_C, starts_B1, states.initial_states, states.initial_slots_B, silu);
  return {std::move(y_TC), std::move(final_states)};
}

CausalConv1dGradients causal_conv1d_backward(
    const at::Tensor& dy_TC,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu) {
  return call_backward(dy_TC, std::nullopt, x_TC, weight_CK, bias_C, starts_B1, states, silu);
}

at::Tensor causal_conv1d_step_(
    const at::Tensor& x_BC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& states_SCK,
    const at::Tensor& slots_B,
    bool silu) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::causal_conv1d_step_", "")
                             .typed<Step>();
  return op.call(x_BC, weight_CK, bias_C, states_SCK, slots_B, silu);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor starts, Tensor? "
      "initial_states=None, Tensor? initial_slots=None, bool silu=True) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "causal_conv1d_backward(Tensor dy, Tensor? dfinal_states, Tensor x, Tensor weight, Tensor? "
      "bias, Tensor starts, Tensor? initial_states, Tensor? initial_slots, bool silu) -> (Tensor, "
      "Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "causal_conv1d_step_(Tensor x, Tensor weight, Tensor? bias, Tensor(a!) states, Tensor slots, "
      "bool silu=True) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("causal_conv1d", causal_conv1d_autograd);
  library.impl("causal_conv1d_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl(
      "causal_conv1d_step_", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("causal_conv1d", causal_conv1d_meta);
  library.impl("causal_conv1d_backward", causal_conv1d_backward_meta);
  library.impl("causal_conv1d_step_", causal_conv1d_step_meta);
}

} // namespace baton::ops
