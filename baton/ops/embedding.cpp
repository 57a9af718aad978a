// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/embedding.h"

#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"
#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class EmbeddingFunction : public torch::autograd::Function<EmbeddingFunction> {
 public:
  static at::Tensor
  forward(AutogradContext* context, const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({tokens_T});
    context->saved_data["vocabulary"] = weight_VD.sym_size(0);
    return ops::embedding(weight_VD, tokens_T);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    variable_list inputs(2);
    if (gradients[0].defined() && context->needs_input_grad(0)) {
      inputs[0] = embedding_backward(
          gradients[0],
          context->get_saved_variables()[0],
          context->saved_data["vocabulary"].toSymInt());
    }
    return inputs;
  }
};

at::Tensor embedding_autograd(const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
  return EmbeddingFunction::apply(weight_VD, tokens_T);
}

at::Tensor embedding_meta(const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
  check_embedding(weight_VD, tokens_T);
  return at::empty_symint({tokens_T.sym_size(0), weight_VD.sym_size(1)}, weight_VD.options());
}

at::Tensor embedding_backward_meta(
    const at::Tensor& dout_TD,
    const at::Tensor& tokens_T,
    c10::SymInt vocabulary) {
  check_embedding_backward(dout_TD, tokens_T);
  return at::empty_symint({std::move(vocabulary), dout_TD.sym_size(1)}, dout_TD.options());
}

} // namespace

void check_embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
  check_activation("weight", weight_VD);
  TORCH_CHECK(
      weight_VD.dim() == 2 && tokens_T.dim() == 1 && tokens_T.scalar_type() == at::kLong,
      "embedding takes weight [V, D] and tokens [T] as int64, got ",
      weight_VD.sym_sizes(),
      " and ",
      tokens_T.scalar_type(),
      " ",
      tokens_T.sym_sizes());
}

void check_embedding_backward(const at::Tensor& dout_TD, const at::Tensor& tokens_T) {
  check_activation("dout", dout_TD);
  TORCH_CHECK(
      dout_TD.dim() == 2 && tokens_T.dim() == 1 && tokens_T.scalar_type() == at::kLong &&
          dout_TD.sym_size(0) == tokens_T.sym_size(0),
      "the gradient of embedding takes dout [T, D] and tokens [T] as int64, got ",
      dout_TD.sym_sizes(),
      " and ",
      tokens_T.scalar_type(),
      " ",
      tokens_T.sym_sizes());
}

at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::embedding", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&)>();
  return op.call(weight_VD, tokens_T);
}

at::Tensor embedding_backward(
    const at::Tensor& dout_TD,
    const at::Tensor& tokens_T,
    const c10::SymInt& vocabulary) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("baton::embedding_backward", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt)>();
  return op.call(dout_TD, tokens_T, vocabulary);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def("embedding(Tensor weight, Tensor tokens) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def(
      "embedding_backward(Tensor dout, Tensor tokens, SymInt vocabulary) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("embedding", &embedding_autograd);
  library.impl(
      "embedding_backward", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("embedding", &embedding_meta);
  library.impl("embedding_backward", &embedding_backward_meta);
}

} // namespace baton::ops
