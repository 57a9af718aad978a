// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/dropout.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Signature = at::Tensor(const at::Tensor&, std::int64_t, std::int64_t, double);

at::Tensor call(const at::Tensor& x_TD, std::int64_t key, std::int64_t first_row, double p) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::dropout", "").typed<Signature>();
  return op.call(x_TD, key, first_row, p);
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& x_TD,
      std::int64_t key,
      std::int64_t first_row,
      double p) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["key"] = key;
    context->saved_data["first_row"] = first_row;
    context->saved_data["p"] = p;
    return call(x_TD, key, first_row, p);
  }

  // The operator is linear in x and diagonal: its gradient is itself.
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor dx_TD = call(
        gradients[0],
        context->saved_data["key"].toInt(),
        context->saved_data["first_row"].toInt(),
        context->saved_data["p"].toDouble());
    return {dx_TD, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor dropout_autograd(
    const at::Tensor& x_TD,
    std::int64_t key,
    std::int64_t first_row,
    double p) {
  return DropoutFunction::apply(x_TD, key, first_row, p);
}

at::Tensor dropout_meta(const at::Tensor& x_TD, std::int64_t, std::int64_t, double) {
  check_activation("x", x_TD);
  return at::empty_symint(x_TD.sym_sizes(), x_TD.options());
}

} // namespace

at::Tensor dropout(const at::Tensor& x_TD, RandomKey key, std::int64_t first_row, double p) {
  return call(x_TD, static_cast<std::int64_t>(key.value()), first_row, p);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "dropout(Tensor x, int key, int first_row, float p) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("dropout", dropout_autograd);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("dropout", dropout_meta);
}

} // namespace baton::ops
