// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/activation.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Unary = at::Tensor(const at::Tensor&);
using Binary = at::Tensor(const at::Tensor&, const at::Tensor&);

/// The operator `name` of one input and its gradient operator `name`_backward(dy, x).
template <class Op>
class ActivationFunction : public torch::autograd::Function<ActivationFunction<Op>> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x});
    return Op::forward(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {Op::backward(gradients[0], context->get_saved_variables()[0])};
  }
};

struct SquaredRelu {
  static at::Tensor forward(const at::Tensor& x) { return squared_relu(x); }
  static at::Tensor backward(const at::Tensor& dy, const at::Tensor& x) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("baton::squared_relu_backward", "")
                               .typed<Binary>();
    return op.call(dy, x);
  }
};

struct Swiglu {
  static at::Tensor forward(const at::Tensor& x) { return swiglu(x); }
  static at::Tensor backward(const at::Tensor& dy, const at::Tensor& x) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("baton::swiglu_backward", "")
                               .typed<Binary>();
    return op.call(dy, x);
  }
};

template <class Op>
at::Tensor autograd(const at::Tensor& x) {
  return ActivationFunction<Op>::apply(x);
}

at::Tensor squared_relu_meta(const at::Tensor& x) {
  check_activation("x", x);
  return at::empty_symint(x.sym_sizes(), x.options());
}

at::Tensor gradient_meta(const at::Tensor&, const at::Tensor& x) {
  check_activation("x", x);
  return at::empty_symint(x.sym_sizes(), x.options());
}

at::Tensor swiglu_meta(const at::Tensor& x) {
  check_activation("x", x);
  TORCH_CHECK(x.dim() >= 1, "x must have a dim of channels");
  std::vector<c10::SymInt> sizes = x.sym_sizes().vec();
  TORCH_CHECK(sizes.back() % 2 == 0, "the last dim of x must be even: ", sizes.back());
  sizes.back() = sizes.back() / 2;
  return at::empty_symint(sizes, x.options());
}

} // namespace

at::Tensor squared_relu(const at::Tensor& x) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::squared_relu", "")
                             .typed<Unary>();
  return op.call(x);
}

at::Tensor swiglu(const at::Tensor& x) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::swiglu", "").typed<Unary>();
  return op.call(x);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def("squared_relu(Tensor x) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def("squared_relu_backward(Tensor dy, Tensor x) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def("swiglu(Tensor x) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def("swiglu_backward(Tensor dy, Tensor x) -> Tensor", {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("squared_relu", autograd<SquaredRelu>);
  library.impl("squared_relu_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl("swiglu", autograd<Swiglu>);
  library.impl("swiglu_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("squared_relu", squared_relu_meta);
  library.impl("squared_relu_backward", gradient_meta);
  library.impl("swiglu", swiglu_meta);
  library.impl("swiglu_backward", gradient_meta);
}

} // namespace baton::ops
