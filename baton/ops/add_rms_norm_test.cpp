// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/add_rms_norm.h"

#include <torch/csrc/autograd/autograd.h>

#include "baton/ops/closeness.h"
#include "baton/ops/rms_norm.h"

namespace baton::ops {
namespace {

constexpr double kEps = 1e-5;

/// A leaf of the judge's graph for each input.
struct Leaves {
  at::Tensor residual;
  at::Tensor update;
  at::Tensor weight;
};

AddRmsNormOutput judge_add_rms_norm(const Leaves& leaves, double scale) {
  const at::Tensor sum = leaves.residual + scale * leaves.update;
  const at::Tensor normed = sum * at::rsqrt(sum.square().mean(-1, true) + kEps) * leaves.weight;
  return {sum, normed};
}

void expect_like_judge(const Leaves& leaves, double scale, const std::string& what) {
  const Leaves judge{
      judge_leaf(leaves.residual), judge_leaf(leaves.update), judge_leaf(leaves.weight)};
  const AddRmsNormOutput expected = judge_add_rms_norm(judge, scale);
  const AddRmsNormOutput found =
      add_rms_norm(leaves.residual, leaves.update, leaves.weight, {kEps, scale});
  EXPECT_EQ(found.sum.scalar_type(), leaves.residual.scalar_type()) << what;
  EXPECT_EQ(found.normed.scalar_type(), leaves.update.scalar_type()) << what;
  expect_close(found.sum, expected.sum, what + " sum");
  const at::Tensor dsum = at::randn_like(found.sum);
  const at::Tensor dnormed = at::randn_like(found.normed);
  torch::autograd::backward({found.sum, found.normed}, {dsum, dnormed});
  torch::autograd::backward(
      {expected.sum, expected.normed}, {dsum.to(at::kDouble), dnormed.to(at::kDouble)});
  EXPECT_EQ(leaves.update.grad().scalar_type(), leaves.update.scalar_type()) << what;
  if (leaves.update.scalar_type() != at::kBFloat16) { // else the norm is that of the rounded sum
    expect_close(found.normed, expected.normed, what + " normed");
    expect_close(leaves.residual.grad(), judge.residual.grad(), what + " dresidual");
    expect_close(leaves.update.grad(), judge.update.grad(), what + " dupdate");
    expect_close(leaves.weight.grad(), judge.weight.grad(), what + " dweight");
  }
}

/// What the two operators give one after the other.
void expect_like_the_two(const Leaves& leaves, double scale, const std::string& what) {
  const at::Tensor sum = at::add(leaves.residual.detach(), leaves.update.detach(), scale);
  const at::Tensor input = sum.to(leaves.update.scalar_type());
  const AddRmsNormOutput found =
      add_rms_norm(leaves.residual, leaves.update, leaves.weight, {kEps, scale});
  EXPECT_TRUE(at::equal(found.sum, sum)) << what;
  EXPECT_TRUE(at::equal(found.normed, rms_norm(input, leaves.weight, kEps))) << what;
  const at::Tensor dsum = at::randn_like(sum);
  const at::Tensor dnormed = at::randn_like(found.normed).detach();
  const AddRmsNormGradients gradients =
      add_rms_norm_backward(dsum, dnormed, sum, leaves.weight.detach(), {kEps, scale});
  const RmsNormGradients norm = rms_norm_backward(
      dnormed.to(at::kDouble), input.to(at::kDouble), leaves.weight.detach().to(at::kDouble), kEps);
  const at::Tensor expected = dsum.to(at::kDouble) + norm.x;
  expect_close(gradients.residual, expected, what + " dresidual");
  expect_close(gradients.weight, norm.weight, what + " dweight");
  if (gradients.update.numel() > 0) {
    expect_close(gradients.update, scale * expected, what + " dupdate");
  }
}

TEST(AddRmsNorm, FollowsTheFormulaInAllTypesAndSizes) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t rows : {0, 1, 7, 300}) {
      for (const std::int64_t channels : {1, 3, 8, 31, 260}) {
        for (const double scale : {1.0, 0.25}) {
          const std::string what = std::to_string(rows) + "x" + std::to_string(channels);
          const Leaves leaves{
              random_leaf({rows, channels}, dtype),
              random_leaf({rows, channels}, dtype),
              random_leaf({channels}, dtype)};
          expect_like_judge(leaves, scale, what);
          expect_like_the_two(leaves, scale, what);
        }
      }
    }
  }
}

TEST(AddRmsNorm, TakesAnFp32StreamAndWeightBesideBf16) {
  at::manual_seed(1);
  for (const at::ScalarType residual : {at::kFloat, at::kBFloat16}) {
    for (const at::ScalarType weight : {at::kFloat, at::kBFloat16}) {
      for (const double scale : {1.0, 0.25}) {
        const Leaves leaves{
            random_leaf({9, 40}, residual),
            random_leaf({9, 40}, at::kBFloat16),
            random_leaf({40}, weight)};
        expect_like_judge(leaves, scale, "mixed");
        expect_like_the_two(leaves, scale, "mixed");
      }
    }
  }
}

TEST(AddRmsNorm, TakesRowsThatLieApart) {
  at::manual_seed(1);
  const at::Tensor residual = at::randn({6, 20});
  const at::Tensor update = at::randn({6, 20});
  const at::Tensor weight = at::rand({20});
  const AddRmsNormOutput dense = add_rms_norm(residual, update, weight, {});
  const AddRmsNormOutput apart =
      add_rms_norm(with_row_gap(residual, 7), with_row_gap(update, 3), weight, {});
  EXPECT_TRUE(at::equal(dense.sum, apart.sum));
  EXPECT_TRUE(at::equal(dense.normed, apart.normed));
}

TEST(AddRmsNorm, TakesTheGradientOfEitherOutputAlone) {
  at::manual_seed(1);
  const auto leaves = [] {
    at::manual_seed(2);
    return Leaves{
        random_leaf({3, 8}, at::kDouble),
        random_leaf({3, 8}, at::kDouble),
        random_leaf({8}, at::kDouble)};
  };
  for (const bool of_sum : {true, false}) {
    const Leaves ours = leaves();
    const Leaves judge = leaves();
    const AddRmsNormOutput found =
        add_rms_norm(ours.residual, ours.update, ours.weight, {kEps, 0.5});
    const AddRmsNormOutput expected = judge_add_rms_norm(judge, 0.5);
    (of_sum ? found.sum : found.normed).square().sum().backward();
    (of_sum ? expected.sum : expected.normed).square().sum().backward();
    expect_close(ours.residual.grad(), judge.residual.grad(), "dresidual");
    expect_close(ours.update.grad(), judge.update.grad(), "dupdate");
    if (!of_sum) {
      expect_close(ours.weight.grad(), judge.weight.grad(), "dweight");
    }
  }
}

TEST(AddRmsNorm, GivesEqualBitsOnAnyNumberOfThreads) {
  at::manual_seed(1);
  const at::Tensor residual = at::randn({777, 512});
  const at::Tensor update = at::randn({777, 512});
  const at::Tensor weight = at::randn({512});
  expect_equal_bits_on_threads([&] {
    const AddRmsNormOutput output = add_rms_norm(residual, update, weight, {});
    const AddRmsNormGradients gradients =
        add_rms_norm_backward(residual, update, output.sum, weight, {});
    return std::vector<at::Tensor>{output.sum, output.normed, gradients.residual, gradients.weight};
  });
}

TEST(AddRmsNorm, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::ones({2, 4});
  const at::Tensor weight = at::ones({4});
  EXPECT_THROW(add_rms_norm(x, x, at::ones({3}), {}), c10::Error);
  EXPECT_THROW(add_rms_norm(x, at::ones({2, 5}), weight, {}), c10::Error);
  EXPECT_THROW(add_rms_norm(x.to(at::kBFloat16), x, weight, {}), c10::Error);
  EXPECT_THROW(add_rms_norm(x.to(at::kDouble), x, weight, {}), c10::Error);
  EXPECT_THROW(add_rms_norm(x, x, weight, {-1.0}), c10::Error);
  EXPECT_THROW(add_rms_norm_backward(at::ones({2, 5}), x, x, weight, {}), c10::Error);
}

} // namespace
} // namespace baton::ops
