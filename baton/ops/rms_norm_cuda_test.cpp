// SPDX-License-Identifier: Apache-2.0
// The RMS norm on a GPU, against the formula in fp64.
#include <ATen/ATen.h>

#include "baton/ops/closeness.h"
#include "baton/ops/cuda_module.h"
#include "baton/ops/rms_norm.h"

namespace baton::ops {
namespace {

constexpr double kEps = 1e-5;

class RmsNormCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) {
      GTEST_SKIP() << "no CUDA device: " << cuda_module_status().reason;
    }
    at::manual_seed(1);
  }
};

at::Tensor judge(const at::Tensor& x, const at::Tensor& weight) {
  return x * at::rsqrt(x.square().mean(-1, true) + kEps) * weight;
}

/// Values of x and weight on the CPU, where the judge computes; x_on_gpu is their copy there.
void expect_like_judge(
    const at::Tensor& x,
    const at::Tensor& x_on_gpu,
    const at::Tensor& weight,
    const std::string& what) {
  const at::Tensor judge_x = judge_leaf(x);
  const at::Tensor judge_weight = judge_leaf(weight);
  const at::Tensor expected = judge(judge_x, judge_weight);
  const at::Tensor weight_on_gpu = weight.detach().to(at::kCUDA);
  const at::Tensor dy = at::randn(x.sizes(), at::kDouble).to(x.scalar_type());
  expected.backward(dy.to(at::kDouble));
  expect_close(rms_norm(x_on_gpu, weight_on_gpu, kEps).cpu(), expected, what + " y");
  const RmsNormGradients gradients =
      rms_norm_backward(dy.to(at::kCUDA), x_on_gpu, weight_on_gpu, kEps);
  expect_close(gradients.x.cpu(), judge_x.grad(), what + " dx");
  expect_close(gradients.weight.cpu(), judge_weight.grad(), what + " dweight");
  const RmsNormGradients again = rms_norm_backward(dy.to(at::kCUDA), x_on_gpu, weight_on_gpu, kEps);
  EXPECT_TRUE(at::equal(gradients.x, again.x)) << what;
  EXPECT_TRUE(at::equal(gradients.weight, again.weight)) << what;
}

TEST_F(RmsNormCuda, FollowsTheFormulaInAllTypesAndSizes) {
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t rows : {0, 1, 7, 1500}) {
      for (const std::int64_t channels : {1, 3, 8, 31, 260, 2048}) {
        const at::Tensor x = random_leaf({rows, channels}, dtype);
        expect_like_judge(
            x,
            x.detach().to(at::kCUDA),
            random_leaf({channels}, dtype),
            std::to_string(rows) + "x" + std::to_string(channels));
      }
    }
  }
}

TEST_F(RmsNormCuda, TakesAnFp32WeightBesideBf16) {
  const at::Tensor x = random_leaf({9, 40}, at::kBFloat16);
  expect_like_judge(x, x.detach().to(at::kCUDA), random_leaf({40}, at::kFloat), "fp32 weight");
}

TEST_F(RmsNormCuda, TakesRowsThatLieApartAndBeginAnywhere) {
  for (const std::int64_t first : {0, 3, 8}) {
    const at::Tensor wide = at::randn({50, 100}).to(at::kBFloat16);
    expect_like_judge(
        wide.narrow(1, first, 48),
        wide.to(at::kCUDA).narrow(1, first, 48),
        random_leaf({48}, at::kBFloat16),
        "from " + std::to_string(first));
  }
}

TEST_F(RmsNormCuda, TakesMoreChannelsThanPlainSharedMemoryHolds) {
  const at::Tensor x = random_leaf({3, 20000}, at::kFloat);
  expect_like_judge(x, x.detach().to(at::kCUDA), random_leaf({20000}, at::kFloat), "wide");
}

} // namespace
} // namespace baton::ops
