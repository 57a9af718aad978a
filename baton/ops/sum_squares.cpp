// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/sum_squares.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const c10::TypedOperatorHandle<at::Tensor(const at::Tensor&)>& sum_squares_handle() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("baton::sum_squares", "")
                                 .typed<at::Tensor(const at::Tensor&)>();
  return handle;
}

class SumSquares : public torch::autograd::Function<SumSquares> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return sum_squares_handle().call(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor x = context->get_saved_variables().front();
    return {x * (2 * gradients.front()).to(x.scalar_type())};
  }
};

at::Tensor sum_squares_autograd(const at::Tensor& x) {
  return SumSquares::apply(x);
}

at::Tensor sum_squares_meta(const at::Tensor& x) {
  return at::empty({}, x.options().dtype(at::kDouble));
}

} // namespace

at::Tensor sum_squares(const at::Tensor& x) {
  return sum_squares_handle().call(x);
}

} // namespace baton::ops

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def("sum_squares(Tensor x) -> Tensor", {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("sum_squares", &baton::ops::sum_squares_meta);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("sum_squares", &baton::ops::sum_squares_autograd);
}
