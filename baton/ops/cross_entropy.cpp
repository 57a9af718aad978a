// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cross_entropy.h"

#include <algorithm>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Losses = std::tuple<at::Tensor, at::Tensor>;
using LossesAndGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

constexpr std::int64_t kLogitBytes = 32 << 20;
constexpr std::int64_t kFewestTokens = 16;

Losses call_cross_entropy(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::cross_entropy", "")
                             .typed<Losses(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const OptionalTensor&,
                                 double,
                                 std::int64_t)>();
  return op.call(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens);
}

class CrossEntropyFunction : public torch::autograd::Function<CrossEntropyFunction> {
 public:
  static variable_list forward(
      AutogradContext* context,
      const at::Tensor& hidden_TD,
      const at::Tensor& weight_VD,
      const at::Tensor& labels_T,
      const OptionalTensor& mask_T,
      double logit_scale,
      std::int64_t block_tokens) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("baton::cross_entropy_with_grads", "")
                               .typed<LossesAndGradients(
                                   const at::Tensor&,
                                   const at::Tensor&,
                                   const at::Tensor&,
                                   const OptionalTensor&,
                                   double,
                                   std::int64_t)>();
    auto [loss_sum, nll_T, dhidden_TD, dweight_VD] =
        op.call(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens);
    context->save_for_backward({dhidden_TD, dweight_VD});
    context->mark_non_differentiable({nll_T});
    return {loss_sum, nll_T};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    variable_list inputs(6);
    if (!gradients[0].defined()) {
      return inputs;
    }
    const variable_list saved = context->get_saved_variables();
    for (int i = 0; i < 2; ++i) {
      if (context->needs_input_grad(i)) {
        inputs[i] = saved[i] * gradients[0].to(saved[i].scalar_type());
      }
    }
    return inputs;
  }
};

Losses cross_entropy_autograd(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  TORCH_CHECK(
      !mask_T || !mask_T->requires_grad() || !at::GradMode::is_enabled(),
      "the mask of cross_entropy has no gradient");
  if (at::GradMode::is_enabled() && (hidden_TD.requires_grad() || weight_VD.requires_grad())) {
    const variable_list outputs = CrossEntropyFunction::apply(
        hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens);
    return {outputs[0], outputs[1]};
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_cross_entropy(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens);
}

Losses cross_entropy_meta(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double /*logit_scale*/,
    std::int64_t block_tokens) {
  check_cross_entropy(hidden_TD, weight_VD, labels_T, mask_T, block_tokens);
  const auto options = hidden_TD.options().dtype(at::toOpMathType(hidden_TD.scalar_type()));
  return {at::empty({}, options), at::empty_symint(labels_T.sym_sizes(), options)};
}

LossesAndGradients cross_entropy_with_grads_meta(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  auto [loss_sum, nll_T] =
      cross_entropy_meta(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens);
  return {
      loss_sum,
      nll_T,
      at::empty_symint(hidden_TD.sym_sizes(), hidden_TD.options()),
      at::empty_symint(weight_VD.sym_sizes(), weight_VD.options())};
}

} // namespace

void check_cross_entropy(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    std::int64_t block_tokens) {
  TORCH_CHECK(
      hidden_TD.dim() == 2 && weight_VD.dim() == 2 &&
          hidden_TD.sym_size(1) == weight_VD.sym_size(1),
      "cross_entropy takes hidden [T, D] and weight [V, D], got ",
      hidden_TD.sym_sizes(),
      " and ",
      weight_VD.sym_sizes());
  TORCH_CHECK(
      hidden_TD.scalar_type() == weight_VD.scalar_type() &&
          at::isFloatingType(hidden_TD.scalar_type()),
      "hidden and weight must have one floating dtype, got ",
      hidden_TD.scalar_type(),
      " and ",
      weight_VD.scalar_type());
  TORCH_CHECK(
      labels_T.dim() == 1 && labels_T.scalar_type() == at::kLong &&
          labels_T.sym_size(0) == hidden_TD.sym_size(0),
      "labels must be int64, one a token of ",
      hidden_TD.sym_sizes(),
      ", got ",
      labels_T.scalar_type(),
      " ",
      labels_T.sym_sizes());
  TORCH_CHECK(
      !mask_T || (mask_T->sym_sizes() == labels_T.sym_sizes() &&
                  at::isFloatingType(mask_T->scalar_type())),
      "the mask must be floating, one weight a token of ",
      hidden_TD.sym_sizes());
  TORCH_CHECK(block_tokens >= 0, "block_tokens must not be negative: ", block_tokens);
}

std::int64_t cross_entropy_block(std::int64_t block_tokens, std::int64_t vocabulary) {
  const std::int64_t row_bytes = 4 * std::max<std::int64_t>(1, vocabulary);
  return block_tokens > 0 ? block_tokens : std::max(kFewestTokens, kLogitBytes / row_bytes);
}

CrossEntropyOutput cross_entropy(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  auto [loss_sum, nll_T] =
      call_cross_entropy(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens);
  return {std::move(loss_sum), std::move(nll_T)};
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "cross_entropy(Tensor hidden, Tensor weight, Tensor labels, Tensor? mask=None, "
      "float logit_scale=1., int block_tokens=0) -> (Tensor loss_sum, Tensor nll)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "cross_entropy_with_grads(Tensor hidden, Tensor weight, Tensor labels, Tensor? mask=None, "
      "float logit_scale=1., int block_tokens=0) "
      "-> (Tensor loss_sum, Tensor nll, Tensor dhidden, Tensor dweight)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("cross_entropy", &cross_entropy_autograd);
  library.impl(
      "cross_entropy_with_grads", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("cross_entropy", &cross_entropy_meta);
  library.impl("cross_entropy_with_grads", &cross_entropy_with_grads_meta);
}

} // namespace baton::ops
