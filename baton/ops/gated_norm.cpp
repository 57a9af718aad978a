// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/gated_norm.h"

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

using OptionalTensor = std::optional<at::Tensor>;
using Forward = at::Tensor(
    const at::Tensor&,
    const at::Tensor&,
    const OptionalTensor&,
    double,
    std::int64_t,
    bool);
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Backward = Gradients(
    const at::Tensor&,
    const at::Tensor&,
    const at::Tensor&,
    const OptionalTensor&,
    double,
    std::int64_t,
    bool);

class GatedNormFunction : public torch::autograd::Function<GatedNormFunction> {
 public:
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& y_TD,
      const at::Tensor& z_TD,
      const OptionalTensor& weight_D,
      double eps,
      std::int64_t group_size,
      bool gate_first) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({y_TD, z_TD, weight_D.value_or(at::Tensor())});
    context->saved_data["eps"] = eps;
    context->saved_data["group_size"] = group_size;
    context->saved_data["gate_first"] = gate_first;
    return gated_norm(
        y_TD, z_TD, weight_D, {.eps = eps, .group_size = group_size, .gate_first = gate_first});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("baton::gated_norm_backward", "")
                               .typed<Backward>();
    const variable_list saved = context->get_saved_variables();
    auto [dy, dz, dweight] = op.call(
        gradients[0],
        saved[0],
        saved[1],
        saved[2].defined() ? OptionalTensor(saved[2]) : std::nullopt,
        context->saved_data["eps"].toDouble(),
        context->saved_data["group_size"].toInt(),
        context->saved_data["gate_first"].toBool());
    return {
        dy,
        dz,
        saved[2].defined() ? dweight : at::Tensor(),
        at::Tensor(),
        at::Tensor(),
        at::Tensor()};
  }
};

at::Tensor gated_norm_autograd(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  return GatedNormFunction::apply(y_TD, z_TD, weight_D, eps, group_size, gate_first);
}

at::Tensor gated_norm_meta(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    double eps,
    std::int64_t group_size,
    bool) {
  check_gated_norm(y_TD, z_TD, weight_D, eps, group_size);
  return at::empty_symint(y_TD.sym_sizes(), y_TD.options());
}

Gradients gated_norm_backward_meta(
    const at::Tensor&,
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    double eps,
    std::int64_t group_size,
    bool) {
  check_gated_norm(y_TD, z_TD, weight_D, eps, group_size);
  return {
      at::empty_symint(y_TD.sym_sizes(), y_TD.options()),
      at::empty_symint(z_TD.sym_sizes(), z_TD.options()),
      weight_D ? at::empty_symint(weight_D->sym_sizes(), weight_D->options())
               : at::empty({0}, y_TD.options())};
}

} // namespace

void check_gated_norm(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    double eps,
    std::int64_t group_size) {
  check_activation("y", y_TD);
  TORCH_CHECK(y_TD.dim() == 2, "y must be [T, D], got ", y_TD.sym_sizes());
  check_same("z", z_TD, "y", y_TD);
  TORCH_CHECK(eps >= 0, "eps must not be negative: ", eps);
  if (weight_D) {
    check_channel_parameter("weight", *weight_D, y_TD.sym_size(1), y_TD);
    TORCH_CHECK(
        group_size > 0 && y_TD.sym_size(1) % group_size == 0,
        "the channels must be a multiple of group_size: ",
        y_TD.sym_size(1),
        " vs ",
        group_size);
  }
}

at::Tensor gated_norm(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    const GatedNormOptions& options) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::gated_norm", "").typed<Forward>();
  return op.call(y_TD, z_TD, weight_D, options.eps, options.group_size, options.gate_first);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "gated_norm(Tensor y, Tensor z, Tensor? weight, float eps, int group_size, bool "
      "gate_first=True) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "gated_norm_backward(Tensor dout, Tensor y, Tensor z, Tensor? weight, float eps, int "
      "group_size, bool gate_first) -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("gated_norm", gated_norm_autograd);
  library.impl("gated_norm_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("gated_norm", gated_norm_meta);
  library.impl("gated_norm_backward", gated_norm_backward_meta);
}

} // namespace baton::ops
