// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/linear.h"

#include <tuple>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

bool wants_gradient(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  return at::GradMode::is_enabled() &&
         (x.requires_grad() || weight_FD.requires_grad() || (bias_F && bias_F->requires_grad()));
}

at::Tensor call_linear(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("baton::linear", "")
          .typed<at::Tensor(
              const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&)>();
  return op.call(x, weight_FD, bias_F);
}

Gradients call_linear_backward(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    bool need_dx,
    bool need_dweight,
    bool need_dbias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("baton::linear_backward", "")
          .typed<Gradients(
              const at::Tensor&, const at::Tensor&, const at::Tensor&, bool, bool, bool)>();
  return op.call(dy, x, weight_FD, need_dx, need_dweight, need_dbias);
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& x,
      const at::Tensor& weight_FD,
      const std::optional<at::Tensor>& bias_F) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, weight_FD});
    context->saved_data["has_bias"] = bias_F.has_value();
    return call_linear(x, weight_FD, bias_F);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    if (!gradients[0].defined()) {
      return {at::Tensor(), at::Tensor(), at::Tensor()};
    }
    const variable_list saved = context->get_saved_variables();
    const bool need_dx = context->needs_input_grad(0);
    const bool need_dweight = context->needs_input_grad(1);
    // An absent bias is no input of the node at all.
    const bool need_dbias =
        context->saved_data["has_bias"].toBool() && context->needs_input_grad(2);
    auto [dx, dweight, dbias] =
        call_linear_backward(gradients[0], saved[0], saved[1], need_dx, need_dweight, need_dbias);
    return {
        need_dx ? dx : at::Tensor(),
        need_dweight ? dweight : at::Tensor(),
        need_dbias ? dbias : at::Tensor()};
  }
};

at::Tensor linear_autograd(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  return LinearFunction::apply(x, weight_FD, bias_F);
}

at::Tensor linear_meta(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  check_linear(x, weight_FD, bias_F);
  c10::SymDimVector sizes(x.sym_sizes().begin(), x.sym_sizes().end());
  sizes.back() = weight_FD.sym_size(0);
  return at::empty_symint(sizes, x.options());
}

Gradients linear_backward_meta(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    bool need_dx,
    bool need_dweight,
    bool need_dbias) {
  const auto empty = [&](bool needed, c10::SymIntArrayRef sizes) {
    return needed ? at::empty_symint(sizes, x.options()) : at::empty({0}, x.options());
  };
  return {
      empty(need_dx, x.sym_sizes()),
      empty(need_dweight, weight_FD.sym_sizes()),
      empty(need_dbias, {weight_FD.sym_size(0)})};
}

at::Tensor matvec_meta(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  check_matvec(x_BD, weight_FD, bias_F);
  return at::empty_symint({x_BD.sym_size(0), weight_FD.sym_size(0)}, x_BD.options());
}

} // namespace

void check_linear(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  TORCH_CHECK(
      x.dim() >= 2 && weight_FD.dim() == 2 && x.sym_size(-1) == weight_FD.sym_size(1),
      "linear takes x [..., D] and weight [F, D], got ",
      x.sym_sizes(),
      " and ",
      weight_FD.sym_sizes());
  TORCH_CHECK(
      x.scalar_type() == weight_FD.scalar_type() &&
          (!bias_F || bias_F->scalar_type() == x.scalar_type()),
      "linear takes one dtype, got x ",
      x.scalar_type(),
      ", weight ",
      weight_FD.scalar_type(),
      bias_F ? ", bias " + std::string(c10::toString(bias_F->scalar_type())) : "");
  TORCH_CHECK(
      !bias_F || (bias_F->dim() == 1 && bias_F->sym_size(0) == weight_FD.sym_size(0)),
      "bias must have one entry per row of the weight ",
      weight_FD.sym_sizes(),
      ", got ",
      bias_F ? bias_F->sym_sizes() : c10::SymIntArrayRef());
}

void check_matvec(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  check_linear(x_BD, weight_FD, bias_F);
  TORCH_CHECK(
      x_BD.dim() == 2 && x_BD.sym_size(0) <= kMatvecRows,
      "matvec takes x [B, D] with B <= ",
      kMatvecRows,
      ", got ",
      x_BD.sym_sizes());
  TORCH_CHECK(
      x_BD.scalar_type() == at::kFloat || x_BD.scalar_type() == at::kBFloat16,
      "matvec takes float32 or bfloat16, got ",
      x_BD.scalar_type());
}

at::Tensor
linear(const at::Tensor& x, const at::Tensor& weight_FD, const std::optional<at::Tensor>& bias_F) {
  const bool few_rows = x.device().is_cpu() && x.dim() == 2 && x.size(0) <= kMatvecRows &&
                        x.scalar_type() != at::kDouble && !wants_gradient(x, weight_FD, bias_F);
  return few_rows ? matvec(x, weight_FD, bias_F) : call_linear(x, weight_FD, bias_F);
}

at::Tensor matvec(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("baton::matvec", "")
          .typed<at::Tensor(
              const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&)>();
  return op.call(x_BD, weight_FD, bias_F);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def(
      "linear_backward(Tensor dy, Tensor x, Tensor weight, bool need_dx=True, "
      "bool need_dweight=True, bool need_dbias=True) -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "matvec(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("linear", &linear_autograd);
  library.impl("matvec", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
  library.impl("linear_backward", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("linear", &linear_meta);
  library.impl("linear_backward", &linear_backward_meta);
  library.impl("matvec", &matvec_meta);
}

} // namespace baton::ops
