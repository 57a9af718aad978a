// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/add_rms_norm.h"

#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class AddRmsNormFunction : public torch::autograd::Function<AddRmsNormFunction> {
 public:
  static variable_list forward(
      AutogradContext* context,
      const at::Tensor& residual,
      const at::Tensor& update,
      const at::Tensor& weight,
      double eps,
      double scale) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const AddRmsNormOutput output = add_rms_norm(residual, update, weight, {eps, scale});
    context->save_for_backward({output.sum, weight});
    context->saved_data["eps"] = eps;
    context->saved_data["scale"] = scale;
    context->saved_data["update_dtype"] = static_cast<std::int64_t>(update.scalar_type());
    context->set_materialize_grads(false);
    return {output.sum, output.normed};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const AddRmsNormConfig config{
        context->saved_data["eps"].toDouble(), context->saved_data["scale"].toDouble()};
    const at::Tensor& dsum = gradients[0];
    const at::Tensor& dnormed = gradients[1];
    const at::Tensor none;
    if (!dnormed.defined()) {
      const auto dtype = static_cast<at::ScalarType>(context->saved_data["update_dtype"].toInt());
      return {dsum, dsum.defined() ? dsum.mul(config.scale).to(dtype) : none, none, none, none};
    }
    AddRmsNormGradients found = add_rms_norm_backward(
        dsum.defined() ? std::make_optional(dsum) : std::nullopt,
        dnormed,
        saved[0],
        saved[1],
        config);
    const bool shared = shares_gradient(saved[0], dnormed, config.scale);
    return {found.residual, shared ? found.residual : found.update, found.weight, none, none};
  }
};

std::tuple<at::Tensor, at::Tensor> add_rms_norm_autograd(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    double eps,
    double scale) {
  variable_list outputs = AddRmsNormFunction::apply(residual, update, weight, eps, scale);
  return {std::move(outputs[0]), std::move(outputs[1])};
}

std::tuple<at::Tensor, at::Tensor> add_rms_norm_meta(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    double eps,
    double) {
  check_add_rms_norm(residual, update, weight, eps);
  return {
      at::empty_symint(residual.sym_sizes(), residual.options()),
      at::empty_symint(update.sym_sizes(), update.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_rms_norm_backward_meta(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    double eps,
    double scale) {
  check_add_rms_norm_backward(dsum, dnormed, sum, weight, eps);
  return {
      at::empty_symint(sum.sym_sizes(), sum.options()),
      shares_gradient(sum, dnormed, scale)
          ? at::empty({0}, dnormed.options())
          : at::empty_symint(dnormed.sym_sizes(), dnormed.options()),
      at::empty_symint(weight.sym_sizes(), weight.options())};
}

} // namespace

void check_add_rms_norm(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    double eps) {
  check_activation("update", update);
  TORCH_CHECK(update.dim() >= 1, "update must have a dim of channels");
  const bool fp32_beside_bf16 =
      residual.scalar_type() == at::kFloat && update.scalar_type() == at::kBFloat16;
  TORCH_CHECK(
      residual.scalar_type() == update.scalar_type() || fp32_beside_bf16,
      "residual must have the dtype of update (",
      update.scalar_type(),
      "), or be fp32 beside bf16, got ",
      residual.scalar_type());
  TORCH_CHECK(
      residual.sym_sizes() == update.sym_sizes() && residual.device() == update.device(),
      "residual must be like update: ",
      residual.sym_sizes(),
      " on ",
      residual.device(),
      " vs ",
      update.sym_sizes(),
      " on ",
      update.device());
  check_channel_parameter("weight", weight, update.sym_size(-1), update);
  TORCH_CHECK(eps >= 0, "eps must not be negative: ", eps);
}

void check_add_rms_norm_backward(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    double eps) {
  check_add_rms_norm(sum, dnormed, weight, eps);
  if (dsum) {
    check_same("dsum", *dsum, "sum", sum);
  }
}

bool shares_gradient(const at::Tensor& residual, const at::Tensor& update, double scale) {
  return residual.scalar_type() == update.scalar_type() && scale == 1.0;
}

AddRmsNormOutput add_rms_norm(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    const AddRmsNormConfig& config) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("baton::add_rms_norm", "")
          .typed<std::tuple<at::Tensor, at::Tensor>(
              const at::Tensor&, const at::Tensor&, const at::Tensor&, double, double)>();
  auto [sum, normed] = op.call(residual, update, weight, config.eps, config.scale);
  return {std::move(sum), std::move(normed)};
}

AddRmsNormGradients add_rms_norm_backward(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    const AddRmsNormConfig& config) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::add_rms_norm_backward", "")
                             .typed<std::tuple<at::Tensor, at::Tensor, at::Tensor>(
                                 const std::optional<at::Tensor>&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 double,
                                 double)>();
  auto [dresidual, dupdate, dweight] =
      op.call(dsum, dnormed, sum, weight, config.eps, config.scale);
  return {std::move(dresidual), std::move(dupdate), std::move(dweight)};
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "add_rms_norm(Tensor residual, Tensor update, Tensor weight, float eps=1e-5, "
      "float scale=1.0) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "add_rms_norm_backward(Tensor? dsum, Tensor dnormed, Tensor sum, Tensor weight, float eps, "
      "float scale) -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("add_rms_norm", add_rms_norm_autograd);
  library.impl("add_rms_norm_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("add_rms_norm", add_rms_norm_meta);
  library.impl("add_rms_norm_backward", add_rms_norm_backward_meta);
}

} // namespace baton::ops
