// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/mlp_step.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/activation.h"
#include "baton/ops/forward_only.h"
#include "baton/ops/linear.h"
#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using Step = at::Tensor(
    const at::Tensor&,
    const at::Tensor&,
    const at::Tensor&,
    const std::optional<at::Tensor>&,
    const at::Tensor&,
    const std::optional<at::Tensor>&,
    double,
    double);

at::Tensor call(const c10::TypedOperatorHandle<Step>& op, const MlpStepInputs& in) {
  return op.call(
      in.hidden_BD,
      in.frame.norm_weight_D,
      in.up_weight_FD,
      in.up_bias_F,
      in.down_weight_DF,
      in.down_bias_D,
      in.frame.norm_eps,
      in.frame.scale);
}

template <at::Tensor (*kActivation)(const at::Tensor&)>
at::Tensor by_operators(const MlpStepInputs& in, bool gated) {
  check_mlp_step(in, gated);
  const at::Tensor up = ops::linear(norm_in(in.frame, in.hidden_BD), in.up_weight_FD, in.up_bias_F);
  return add_out(
      in.frame, in.hidden_BD, ops::linear(kActivation(up), in.down_weight_DF, in.down_bias_D));
}

template <bool kGated>
at::Tensor step_meta(const MlpStepInputs& in) {
  check_mlp_step(in, kGated);
  return at::empty_symint(in.hidden_BD.sym_sizes(), in.hidden_BD.options());
}

} // namespace

void check_mlp_step(const MlpStepInputs& in, bool gated) {
  check_activation("hidden", in.hidden_BD);
  TORCH_CHECK(
      in.hidden_BD.dim() == 2 && in.up_weight_FD.dim() == 2 && in.down_weight_DF.dim() == 2,
      "hidden [B, D], up_weight [F, D] and down_weight [D, F] must have two dims, got ",
      in.hidden_BD.sym_sizes(),
      ", ",
      in.up_weight_FD.sym_sizes(),
      " and ",
      in.down_weight_DF.sym_sizes());
  const c10::SymInt width = in.hidden_BD.sym_size(1);
  TORCH_CHECK(
      in.up_weight_FD.sym_size(1) == width && in.down_weight_DF.sym_size(0) == width &&
          in.up_weight_FD.sym_size(0) == in.down_weight_DF.sym_size(1) * (gated ? 2 : 1),
      "up_weight must be [",
      gated ? "2 " : "",
      "F, D] and down_weight [D, F] for hidden [B, D], got ",
      in.up_weight_FD.sym_sizes(),
      " and ",
      in.down_weight_DF.sym_sizes(),
      " for ",
      in.hidden_BD.sym_sizes());
  const auto check_bias =
      [](const char* name, const std::optional<at::Tensor>& bias, const at::Tensor& weight) {
        TORCH_CHECK(
            !bias || (bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0)),
            name,
            " must have one entry per row of the weight ",
            weight.sym_sizes(),
            ", got ",
            bias->sym_sizes());
      };
  check_bias("up_bias", in.up_bias_F, in.up_weight_FD);
  check_bias("down_bias", in.down_bias_D, in.down_weight_DF);
}

at::Tensor squared_relu_mlp_by_operators(const MlpStepInputs& inputs) {
  return by_operators<squared_relu>(inputs, /*gated=*/false);
}

at::Tensor swiglu_mlp_by_operators(const MlpStepInputs& inputs) {
  return by_operators<swiglu>(inputs, /*gated=*/true);
}

at::Tensor squared_relu_mlp_step(const MlpStepInputs& inputs) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::squared_relu_mlp_step", "")
                             .typed<Step>();
  return call(op, inputs);
}

at::Tensor swiglu_mlp_step(const MlpStepInputs& inputs) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::swiglu_mlp_step", "").typed<Step>();
  return call(op, inputs);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "squared_relu_mlp_step(Tensor hidden, Tensor norm_weight, Tensor up_weight, "
      "Tensor? up_bias, Tensor down_weight, Tensor? down_bias, float norm_eps=1e-5, "
      "float scale=1.) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "swiglu_mlp_step(Tensor hidden, Tensor norm_weight, Tensor up_weight, Tensor? up_bias, "
      "Tensor down_weight, Tensor? down_bias, float norm_eps=1e-5, float scale=1.) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, CompositeExplicitAutograd, library) {
  library.impl("squared_relu_mlp_step", &mlp_step_kernel<squared_relu_mlp_by_operators>);
  library.impl("swiglu_mlp_step", &mlp_step_kernel<swiglu_mlp_by_operators>);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("squared_relu_mlp_step", &mlp_step_kernel<step_meta<false>>);
  library.impl("swiglu_mlp_step", &mlp_step_kernel<step_meta<true>>);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl(
      "squared_relu_mlp_step", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
  library.impl("swiglu_mlp_step", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
