// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rms_norm.h"

#include <tuple>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor
  forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight});
    context->saved_data["eps"] = eps;
    return rms_norm(x, weight, eps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    RmsNormGradients found =
        rms_norm_backward(gradients[0], saved[0], saved[1], context->saved_data["eps"].toDouble());
    return {found.x, found.weight, at::Tensor()};
  }
};

at::Tensor rms_norm_autograd(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNormFunction::apply(x, weight, eps);
}

at::Tensor rms_norm_meta(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_rms_norm(x, weight, eps);
  return at::empty_symint(x.sym_sizes(), x.options());
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward_meta(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight,
    double eps) {
  check_rms_norm(x, weight, eps);
  check_same("dy", dy, "x", x);
  return {
      at::empty_symint(x.sym_sizes(), x.options()),
      at::empty_symint(weight.sym_sizes(), weight.options())};
}

} // namespace

void check_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_activation("x", x);
  TORCH_CHECK(x.dim() >= 1, "x must have a dim of channels");
  check_channel_parameter("weight", weight, x.sym_size(-1), x);
  TORCH_CHECK(eps >= 0, "eps must not be negative: ", eps);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::rms_norm", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&, double)>();
  return op.call(x, weight, eps);
}

RmsNormGradients
rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, double eps) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("baton::rms_norm_backward", "")
          .typed<std::tuple<at::Tensor, at::Tensor>(
              const at::Tensor&, const at::Tensor&, const at::Tensor&, double)>();
  auto [dx, dweight] = op.call(dy, x, weight, eps);
  return {std::move(dx), std::move(dweight)};
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "rms_norm(Tensor x, Tensor weight, float eps=1e-5) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def(
      "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("rms_norm", rms_norm_autograd);
  library.impl("rms_norm_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("rms_norm", rms_norm_meta);
  library.impl("rms_norm_backward", rms_norm_backward_meta);
}

} // namespace baton::ops
