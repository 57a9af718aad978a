// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/gated_norm.h"

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

at::Tensor judge_silu(const at::Tensor& z) {
  return z / (1.0 + at::exp(-z));
}

at::Tensor judge_gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config) {
  if (!weight) {
    return y * judge_silu(z);
  }
  const at::Tensor value = config.gate_first ? y * judge_silu(z) : y;
  const at::Tensor groups = value.unflatten(-1, {-1, config.group_size});
  const at::Tensor rms = at::sqrt(groups.square().mean(-1, true) + config.eps);
  const at::Tensor normed = (groups / rms).flatten(-2) * *weight;
  return config.gate_first ? normed : normed * judge_silu(z);
}

void expect_like_judge(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config,
    const std::string& what) {
  const at::Tensor judge_y = judge_leaf(y);
  const at::Tensor judge_z = judge_leaf(z);
  const std::optional<at::Tensor> judge_weight =
      weight ? std::make_optional(judge_leaf(*weight)) : std::nullopt;
  const at::Tensor expected = judge_gated_norm(judge_y, judge_z, judge_weight, config);
  const at::Tensor out = gated_norm(y, z, weight, config);
  expect_close(out, expected, what + " out");
  const at::Tensor dout = at::randn(out.sizes(), at::kDouble).to(out.scalar_type());
  out.backward(dout);
  expected.backward(dout.to(at::kDouble));
  expect_close(y.grad(), judge_y.grad(), what + " dy");
  expect_close(z.grad(), judge_z.grad(), what + " dz");
  if (weight) {
    expect_close(weight->grad(), judge_weight->grad(), what + " dweight");
  }
}

TEST(GatedNorm, FollowsTheFormulaInAllTypesSizesAndForms) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t rows : {0, 1, 5, 200}) {
      for (const bool gate_first : {true, false}) {
        for (const std::int64_t group_size : {1, 12, 40, 120}) {
          const GatedNormConfig config{1e-5, group_size, gate_first};
          expect_like_judge(
              random_leaf({rows, 120}, dtype),
              random_leaf({rows, 120}, dtype),
              random_leaf({120}, dtype),
              config,
              std::to_string(rows) + " rows, group " + std::to_string(group_size));
        }
      }
      expect_like_judge(
          random_leaf({rows, 37}, dtype), random_leaf({rows, 37}, dtype), std::nullopt, {}, "gate");
    }
  }
}

TEST(GatedNorm, TakesAnFp32WeightBesideBf16) {
  at::manual_seed(1);
  expect_like_judge(
      random_leaf({9, 40}, at::kBFloat16),
      random_leaf({9, 40}, at::kBFloat16),
      random_leaf({40}, at::kFloat),
      {1e-5, 20, true},
      "fp32 weight");
}

TEST(GatedNorm, ReadsSlicesOfWiderRows) {
  at::manual_seed(1);
  const at::Tensor y = at::randn({11, 24});
  const at::Tensor z = at::randn({11, 24});
  const at::Tensor weight = at::randn({24});
  for (const bool gate_first : {true, false}) {
    const GatedNormConfig config{1e-5, 8, gate_first};
    EXPECT_TRUE(at::equal(
        gated_norm(with_row_gap(y, 3), with_row_gap(z, 40), weight, config),
        gated_norm(y, z, weight, config)));
  }
}

TEST(GatedNorm, StaysFiniteAtLargeGates) {
  at::manual_seed(1);
  const at::Tensor z = at::tensor({-1e4F, -100.0F, -88.5F, 0.0F, 88.5F, 100.0F, 1e4F, 1.0F});
  const at::Tensor ones = at::ones_like(z);
  const at::Tensor out = gated_norm(ones, z, std::nullopt, {});
  expect_close(out, judge_silu(z.to(at::kDouble)), "silu");
  const GatedNormGradients gradients = gated_norm_backward(ones, ones, z, std::nullopt, {});
  EXPECT_TRUE(gradients.z.isfinite().all().item<bool>());
}

TEST(GatedNorm, GivesEqualBitsOnAnyNumberOfThreads) {
  at::manual_seed(1);
  const at::Tensor y = at::randn({513, 256});
  const at::Tensor z = at::randn({513, 256});
  const at::Tensor dout = at::randn({513, 256});
  const at::Tensor weight = at::randn({256});
  const GatedNormConfig config{1e-5, 64, true};
  expect_equal_bits_on_threads([&] {
    const GatedNormGradients gradients = gated_norm_backward(dout, y, z, weight, config);
    return std::vector<at::Tensor>{
        gated_norm(y, z, weight, config), gradients.y, gradients.z, gradients.weight};
  });
}

TEST(GatedNorm, RefusesWhatDoesNotFit) {
  at::manual_seed(1);
  const at::Tensor y = at::ones({2, 12});
  const at::Tensor weight = at::ones({12});
  EXPECT_THROW(gated_norm(y, at::ones({2, 11}), weight, {1e-5, 4, true}), c10::Error);
  EXPECT_THROW(gated_norm(y, y, weight, {1e-5, 5, true}), c10::Error);
  EXPECT_THROW(gated_norm(y, y, weight, {1e-5, 0, true}), c10::Error);
  EXPECT_THROW(gated_norm(y, y, at::ones({11}), {1e-5, 4, true}), c10::Error);
  EXPECT_THROW(gated_norm(y, y.to(at::kDouble), weight, {1e-5, 4, true}), c10::Error);
}

} // namespace
} // namespace baton::ops
