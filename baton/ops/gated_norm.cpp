// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/gated_norm.h"

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

std::optional<at::Tensor> if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

class GatedNormFunction : public torch::autograd::Function<GatedNormFunction> {
 public:
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& y,
      const at::Tensor& z,
      const std::optional<at::Tensor>& weight,
      double eps,
      std::int64_t group_size,
      bool gate_first) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({y, z, weight.value_or(at::Tensor())});
    context->saved_data["eps"] = eps;
    context->saved_data["group_size"] = group_size;
    context->saved_data["gate_first"] = gate_first;
    return gated_norm(y, z, weight, {eps, group_size, gate_first});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const GatedNormConfig config{
        .eps = context->saved_data["eps"].toDouble(),
        .group_size = context->saved_data["group_size"].toInt(),
        .gate_first = context->saved_data["gate_first"].toBool()};
    GatedNormGradients found =
        gated_norm_backward(gradients[0], saved[0], saved[1], if_defined(saved[2]), config);
    const at::Tensor none;
    return {found.y, found.z, saved[2].defined() ? found.weight : none, none, none, none};
  }
};

at::Tensor gated_norm_autograd(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  return GatedNormFunction::apply(y, z, weight, eps, group_size, gate_first);
}

at::Tensor gated_norm_meta(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  check_gated_norm(y, z, weight, {eps, group_size, gate_first});
  return at::empty_symint(y.sym_sizes(), y.options());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gated_norm_backward_meta(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  check_gated_norm(y, z, weight, {eps, group_size, gate_first});
  check_same("dout", dout, "y", y);
  return {
      at::empty_symint(y.sym_sizes(), y.options()),
      at::empty_symint(y.sym_sizes(), y.options()),
      weight ? at::empty_symint(weight->sym_sizes(), weight->options())
             : at::empty({0}, y.options())};
}

} // namespace

void check_gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config) {
  check_activation("y", y);
  TORCH_CHECK(y.dim() >= 1, "y must have a dim of channels");
  check_same("z", z, "y", y);
  if (!weight) {
    return;
  }
  check_channel_parameter("weight", *weight, y.sym_size(-1), y);
  TORCH_CHECK(config.eps >= 0, "eps must not be negative: ", config.eps);
  TORCH_CHECK(
      config.group_size > 0 && y.sym_size(-1) % config.group_size == 0,
      "channels must be a multiple of group_size: ",
      y.sym_size(-1),
      " vs ",
      config.group_size);
}

at::Tensor gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::gated_norm", "")
                             .typed<at::Tensor(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const std::optional<at::Tensor>&,
                                 double,
                                 std::int64_t,
                                 bool)>();
  return op.call(y, z, weight, config.eps, config.group_size, config.gate_first);
}

GatedNormGradients gated_norm_backward(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::gated_norm_backward", "")
                             .typed<std::tuple<at::Tensor, at::Tensor, at::Tensor>(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const std::optional<at::Tensor>&,
                                 double,
                                 std::int64_t,
                                 bool)>();
  auto [dy, dz, dweight] =
      op.call(dout, y, z, weight, config.eps, config.group_size, config.gate_first);
  return {std::move(dy), std::move(dz), std::move(dweight)};
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "gated_norm(Tensor y, Tensor z, Tensor? weight, float eps, int group_size, bool gate_first) "
      "-> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "gated_norm_backward(Tensor dout, Tensor y, Tensor z, Tensor? weight, float eps, "
      "int group_size, bool gate_first) -> (Tensor, Tensor, Tensor)",
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
