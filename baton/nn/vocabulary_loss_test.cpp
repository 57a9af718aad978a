// SPDX-License-Identifier: Apache-2.0
// The loss of one rank's vocabulary against the operator; model/tensor_parallel_test has several.
#include "baton/nn/vocabulary_loss.h"

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/parallel/tensor_rows.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::nn {
namespace {

struct Inputs {
  at::Tensor hidden_TD, weight_VD, labels_T, mask_T;
};

Inputs make_inputs(at::ScalarType dtype, std::int64_t tokens, std::int64_t vocabulary) {
  const auto values = [&](std::uint64_t key, at::IntArrayRef shape) {
    return uniform(RandomKey(key), shape, -1.0, 1.0).to(dtype).set_requires_grad(true);
  };
  at::Tensor labels =
      uniform(RandomKey(3), {tokens}, -2.0, static_cast<double>(vocabulary)).floor().to(at::kLong);
  return {
      .hidden_TD = values(1, {tokens, 6}),
      .weight_VD = values(2, {vocabulary, 6}),
      .labels_T = labels.masked_fill(labels < 0, ops::kIgnoredLabel),
      .mask_T = uniform(RandomKey(4), {tokens}, -1.0, 2.0).clamp_min(0.0).to(at::kFloat)};
}

void expect_close(const at::Tensor& found, const at::Tensor& wanted, double tolerance) {
  ASSERT_EQ(found.sizes(), wanted.sizes());
  EXPECT_EQ(found.scalar_type(), wanted.scalar_type());
  const double scale = 1.0 + wanted.abs().max().item<double>();
  EXPECT_LE((found - wanted).abs().max().item<double>(), tolerance * scale);
}

TEST(VocabularyLoss, AloneEqualsTheOperator) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const double tolerance = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 1e-2;
    const Inputs found = make_inputs(dtype, 13, 19);
    const Inputs wanted = make_inputs(dtype, 13, 19);
    const auto loss = vocabulary_loss(
        found.hidden_TD,
        found.weight_VD,
        found.labels_T,
        found.mask_T,
        vocabulary_share(19, {}),
        {});
    const auto like =
        ops::cross_entropy(wanted.hidden_TD, wanted.weight_VD, wanted.labels_T, wanted.mask_T);
    (loss.loss_sum * 0.3).backward();
    (like.loss_sum * 0.3).backward();
    expect_close(loss.loss_sum.detach(), like.loss_sum.detach(), tolerance);
    expect_close(loss.nll_T, like.nll_T, tolerance);
    expect_close(found.hidden_TD.grad(), wanted.hidden_TD.grad(), tolerance);
    expect_close(found.weight_VD.grad(), wanted.weight_VD.grad(), tolerance);
  }
}

// Several blocks of tokens, the last one shorter.
TEST(VocabularyLoss, TakesTokensInBlocks) {
  constexpr std::int64_t kVocabulary = 600'000;
  const std::int64_t block = ops::cross_entropy_block(0, kVocabulary / 2 + 1);
  const std::int64_t tokens = 2 * block + 3;
  const Inputs wanted = make_inputs(at::kFloat, tokens, kVocabulary);
  const auto like =
      ops::cross_entropy(wanted.hidden_TD, wanted.weight_VD, wanted.labels_T, wanted.mask_T);
  like.loss_sum.backward();
  parallel::run_ranks({{2, 1, 1, 1}}, [&](const parallel::Mesh& mesh) {
    const parallel::Group& ranks = mesh.along(parallel::Axis::kTensor);
    const VocabularyShare share = vocabulary_share(kVocabulary, ranks);
    const parallel::Share rows = parallel::even_share(tokens, ranks.rank(), ranks.size());
    const at::Tensor hidden = wanted.hidden_TD.detach().narrow(0, rows.first, rows.count).clone();
    const at::Tensor weight = wanted.weight_VD.detach().narrow(0, share.first, share.count).clone();
    const auto loss = vocabulary_loss(
        hidden.set_requires_grad(true),
        weight.set_requires_grad(true),
        wanted.labels_T,
        wanted.mask_T,
        share,
        ranks);
    loss.loss_sum.backward();
    expect_close(loss.nll_T, like.nll_T, 1e-5);
    expect_close(hidden.grad(), wanted.hidden_TD.grad().narrow(0, rows.first, rows.count), 1e-5);
    expect_close(weight.grad(), wanted.weight_VD.grad().narrow(0, share.first, share.count), 1e-5);
  });
}

// Logits that overflow are no matter where their token has no weight.
TEST(VocabularyLoss, ATokenWithoutWeightChangesNothing) {
  Inputs inputs = make_inputs(at::kFloat, 5, 7);
  inputs.mask_T.fill_(1.0).select(0, 2).zero_();
  inputs.hidden_TD.detach().select(0, 2).fill_(std::numeric_limits<float>::max());
  const auto loss = vocabulary_loss(
      inputs.hidden_TD,
      inputs.weight_VD,
      inputs.labels_T,
      inputs.mask_T,
      vocabulary_share(7, {}),
      {});
  loss.loss_sum.backward();
  EXPECT_TRUE(loss.loss_sum.isfinite().item<bool>());
  EXPECT_EQ(inputs.hidden_TD.grad().select(0, 2).abs().sum().item<float>(), 0.0F);
}

} // namespace
} // namespace baton::nn
