// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/vocabulary_loss.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/ops/linear.h"
#include "baton/parallel/tensor_rows.h"

namespace baton::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// On a GPU, whose products are fast, blocks of logits are larger, as those of `cross_entropy` are.
constexpr std::int64_t kBlocksOfGpu = 32;

/// out = a b^T, or out += a b^T with `accumulate`; on a GPU bf16 operands add up in an fp32 `out`.
void product_into(
    at::Tensor out_MN,
    const at::Tensor& a_MK,
    const at::Tensor& b_NK,
    bool accumulate = false) {
  const at::ScalarType dtype = out_MN.scalar_type();
  if (a_MK.is_cuda() && a_MK.scalar_type() != dtype) {
    accumulate ? at::addmm_out(out_MN, out_MN, a_MK, b_NK.t(), dtype)
               : at::mm_out(out_MN, a_MK, b_NK.t(), dtype);
    return;
  }
  const at::Tensor product = ops::linear(a_MK.to(dtype), b_NK.to(dtype));
  accumulate ? out_MN.add_(product) : out_MN.copy_(product);
}

/// The inputs that the whole pass shares, and what it finds.
class Pass {
 public:
  Pass(
      const at::Tensor& hidden_TD,
      const at::Tensor& weight_VD,
      const VocabularyShare& share,
      const parallel::Group& ranks,
      bool gradients)
      : hidden_TD_(hidden_TD),
        sums_(hidden_TD.options().dtype(at::toOpMathType(hidden_TD.scalar_type()))),
        operand_(hidden_TD.is_cuda() ? hidden_TD.scalar_type() : sums_.dtype().toScalarType()),
        weight_VD_(weight_VD.to(operand_)),
        share_(share),
        ranks_(ranks),
        gradients_(gradients) {
    if (gradients) {
      dhidden_TD = at::empty_like(hidden_TD);
      dweight_VD = at::zeros(weight_VD.sizes(), sums_);
    }
  }

  void run(const at::Tensor& labels_T, const std::optional<at::Tensor>& mask_T) {
    const std::int64_t tokens = hidden_TD_.size(0);
    const at::Tensor weight_T = (mask_T ? mask_T->to(sums_.dtype()) : at::ones({tokens}, sums_))
                                    .masked_fill(labels_T == ops::kIgnoredLabel, 0.0);
    // The same on all ranks: they take the blocks together.
    const std::int64_t block = ops::cross_entropy_block(0, share_.vocabulary / ranks_.size() + 1) *
                               (hidden_TD_.is_cuda() ? kBlocksOfGpu : 1);
    nll_T = at::empty({tokens}, sums_);
    for (std::int64_t first = 0; first < tokens; first += block) {
      const std::int64_t rows = std::min(block, tokens - first);
      run_block(
          first, labels_T.narrow(0, first, rows), weight_T.narrow(0, first, rows).unsqueeze(1));
    }
    loss_sum = at::where(weight_T == 0.0, at::zeros({}, sums_), nll_T * weight_T)
                   .sum(at::kDouble)
                   .to(sums_.dtype());
  }

  at::Tensor loss_sum;
  at::Tensor nll_T;
  at::Tensor dhidden_TD; ///< what this rank's share of the vocabulary adds to it
  at::Tensor dweight_VD;

 private:
  void run_block(std::int64_t first, const at::Tensor& labels_R, const at::Tensor& weight_R1) {
    const std::int64_t rows = labels_R.size(0);
    const at::Tensor hidden_RD = hidden_TD_.narrow(0, first, rows);
    at::Tensor logits_RV = at::empty({rows, share_.count}, sums_);
    product_into(logits_RV, hidden_RD.to(operand_), weight_VD_);
    const at::Tensor places_R = labels_R - share_.first;
    const at::Tensor elsewhere_R = places_R.lt(0).logical_or(places_R.ge(share_.count));
    const at::Tensor columns_R = places_R.masked_fill(elsewhere_R, 0);
    const at::Tensor target_R =
        logits_RV.gather(1, columns_R.unsqueeze(1)).squeeze(1).masked_fill(elsewhere_R, 0.0);
    const at::Tensor maximum_R = logits_RV.amax(1);
    logits_RV.sub_(maximum_R.unsqueeze(1)).exp_();
    const at::Tensor all_N3R =
        ranks_.all_gather(at::stack({maximum_R, logits_RV.sum(1), target_R}));
    const at::Tensor highest_R = all_N3R.select(1, 0).amax(0);
    const at::Tensor sum_R =
        (all_N3R.select(1, 1) * (all_N3R.select(1, 0) - highest_R).exp()).sum(0);
    const at::Tensor loss_R = highest_R + sum_R.log() - all_N3R.select(1, 2).sum(0);
    nll_T.narrow(0, first, rows).copy_(loss_R.masked_fill(labels_R == ops::kIgnoredLabel, 0.0));
    if (!gradients_) {
      return;
    }
    // The probabilities become the gradient of the masked sum, in place.
    const at::Tensor factor_R = (maximum_R - highest_R).exp() / sum_R;
    logits_RV.mul_(factor_R.unsqueeze(1) * weight_R1);
    logits_RV.masked_fill_(weight_R1 == 0.0, 0.0); // also where an exponential overflowed
    const at::Tensor rows_R = at::arange(rows, columns_R.options());
    const at::Tensor label_gradients_R = logits_RV.gather(1, columns_R.unsqueeze(1)).squeeze(1) -
                                         weight_R1.squeeze(1).masked_fill(elsewhere_R, 0.0);
    logits_RV.index_put_({rows_R, columns_R}, label_gradients_R);
    const at::Tensor dlogits_RV = logits_RV.to(operand_);
    at::Tensor dhidden_RD = dhidden_TD.narrow(0, first, rows);
    product_into(dhidden_RD, dlogits_RV, weight_VD_.t());
    product_into(dweight_VD, dlogits_RV.t(), hidden_RD.to(operand_).t(), /*accumulate=*/true);
  }

  at::Tensor hidden_TD_;
  at::TensorOptions sums_;
  at::ScalarType operand_; ///< of the products
  at::Tensor weight_VD_;
  VocabularyShare share_;
  const parallel::Group& ranks_;
  bool gradients_;
};

struct VocabularyLoss : torch::autograd::Function<VocabularyLoss> {
  static variable_list forward(
      AutogradContext* saved,
      const at::Tensor& hidden_RD,
      const at::Tensor& weight_VD,
      const at::Tensor& labels_T,
      const std::optional<at::Tensor>& mask_T,
      const VocabularyShare& share,
      const parallel::Group& ranks) {
    Pass pass(
        parallel::gather_rows(hidden_RD, labels_T.size(0), ranks), weight_VD, share, ranks, true);
    pass.run(labels_T, mask_T);
    saved->save_for_backward(
        {parallel::scatter_rows(pass.dhidden_TD, ranks),
         pass.dweight_VD.to(weight_VD.scalar_type())});
    saved->mark_non_differentiable({pass.nll_T});
    return {pass.loss_sum, pass.nll_T};
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    variable_list inputs(6);
    const variable_list found = saved->get_saved_variables();
    for (std::size_t i = 0; i < 2; ++i) {
      inputs[i] = found[i] * gradients[0].to(found[i].scalar_type());
    }
    return inputs;
  }
};

void check_labels(const at::Tensor& labels_T, std::int64_t vocabulary) {
  if (!labels_T.is_cpu() || labels_T.size(0) == 0) {
    return;
  }
  const at::Tensor wrong = labels_T.lt(0)
                               .logical_and(labels_T.ne(ops::kIgnoredLabel))
                               .logical_or(labels_T.ge(vocabulary));
  TORCH_CHECK(
      !wrong.any().item<bool>(),
      "labels must be ",
      ops::kIgnoredLabel,
      " or in [0, ",
      vocabulary,
      "), got ",
      labels_T.masked_select(wrong)[0].item<std::int64_t>());
}

} // namespace

VocabularyShare vocabulary_share(std::int64_t vocabulary, const parallel::Group& ranks) {
  TORCH_CHECK(
      ranks.size() <= vocabulary,
      "parallel.tp must not exceed model.vocabulary: ",
      ranks.size(),
      " vs ",
      vocabulary,
      "; the nearest tp that can be is ",
      vocabulary);
  const parallel::Share share = parallel::even_share(vocabulary, ranks.rank(), ranks.size());
  return {.vocabulary = vocabulary, .first = share.first, .count = share.count};
}

ops::CrossEntropyOutput vocabulary_loss(
    const at::Tensor& hidden_RD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    const VocabularyShare& share,
    const parallel::Group& ranks) {
  check_labels(labels_T, share.vocabulary);
  if (at::GradMode::is_enabled() && (hidden_RD.requires_grad() || weight_VD.requires_grad())) {
    const variable_list outputs =
        VocabularyLoss::apply(hidden_RD, weight_VD, labels_T, mask_T, share, ranks);
    return {.loss_sum = outputs[0], .nll_T = outputs[1]};
  }
  const at::NoGradGuard no_grad;
  Pass pass(
      parallel::gather_rows(hidden_RD, labels_T.size(0), ranks), weight_VD, share, ranks, false);
  pass.run(labels_T, mask_T);
  return {.loss_sum = pass.loss_sum, .nll_T = pass.nll_T};
}

} // namespace baton::nn
