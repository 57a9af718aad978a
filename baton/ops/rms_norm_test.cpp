// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rms_norm.h"

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

constexpr double kEps = 1e-5;

at::Tensor judge_rms_norm(const at::Tensor& x, const at::Tensor& weight) {
  return x * at::rsqrt(x.square().mean(-1, true) + kEps) * weight;
}

void expect_like_judge(const at::Tensor& x, const at::Tensor& weight, const std::string& what) {
  const at::Tensor judge_x = judge_leaf(x);
  const at::Tensor judge_weight = judge_leaf(weight);
  const at::Tensor expected = judge_rms_norm(judge_x, judge_weight);
  const at::Tensor y = rms_norm(x, weight, kEps);
  expect_close(y, expected, what + " y");
  const at::Tensor dy = at::randn(y.sizes(), at::kDouble).to(y.scalar_type());
  y.backward(dy);
  expected.backward(dy.to(at::kDouble));
  expect_close(x.grad(), judge_x.grad(), what + " dx");
  expect_close(weight.grad(), judge_weight.grad(), what + " dweight");
}

TEST(RmsNorm, FollowsTheFormulaInAllTypesAndSizes) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t rows : {0, 1, 7, 300}) {
      for (const std::int64_t channels : {1, 3, 8, 31, 260}) {
        expect_like_judge(
            random_leaf({rows, channels}, dtype),
            random_leaf({channels}, dtype),
            std::to_string(rows) + "x" + std::to_string(channels));
      }
    }
  }
}

TEST(RmsNorm, TakesAnFp32WeightBesideBf16) {
  at::manual_seed(1);
  expect_like_judge(
      random_leaf({9, 40}, at::kBFloat16), random_leaf({40}, at::kFloat), "fp32 weight");
}

TEST(RmsNorm, TakesHeadsAndRowsThatLieApart) {
  at::manual_seed(1);
  expect_like_judge(
      random_leaf({5, 3, 16}, at::kFloat), random_leaf({16}, at::kFloat), "three dims");
  const at::Tensor wide = random_leaf({6, 50}, at::kFloat);
  const at::Tensor weight = at::rand({20});
  const at::Tensor slice = wide.detach().narrow(1, 7, 20);
  EXPECT_TRUE(at::equal(rms_norm(slice, weight, kEps), rms_norm(slice.contiguous(), weight, kEps)));
  const at::Tensor turned = at::randn({20, 6}).t();
  EXPECT_TRUE(
      at::equal(rms_norm(turned, weight, kEps), rms_norm(turned.contiguous(), weight, kEps)));
}

TEST(RmsNorm, GivesEqualBitsOnAnyNumberOfThreads) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({777, 512});
  const at::Tensor dy = at::randn({777, 512});
  const at::Tensor weight = at::randn({512});
  expect_equal_bits_on_threads([&] {
    const RmsNormGradients gradients = rms_norm_backward(dy, x, weight, kEps);
    return std::vector<at::Tensor>{rms_norm(x, weight, kEps), gradients.x, gradients.weight};
  });
}

TEST(RmsNorm, KeepsNotANumber) {
  at::manual_seed(1);
  at::Tensor x = at::ones({2, 16});
  x[0][3] = std::nan("");
  const at::Tensor y = rms_norm(x, at::ones({16}), kEps);
  EXPECT_TRUE(y[0].isnan().all().item<bool>());
  EXPECT_FALSE(y[1].isnan().any().item<bool>());
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  at::manual_seed(1);
  const at::Tensor x = at::ones({2, 4});
  EXPECT_THROW(rms_norm(x, at::ones({3}), kEps), c10::Error);
  EXPECT_THROW(rms_norm(x, at::ones({4}, at::kDouble), kEps), c10::Error);
  EXPECT_THROW(rms_norm(x.to(at::kHalf), at::ones({4}), kEps), c10::Error);
  EXPECT_THROW(rms_norm(x, at::ones({4}), -1.0), c10::Error);
}

} // namespace
} // namespace baton::ops
