// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rotary.h"

#include <cmath>
#include <numbers>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

struct Turn {
  double attention_factor = 1.0;
  bool interleaved = false;
};

/// Each pair times the rotation matrix of its angle.
at::Tensor judge_rotary(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& frequencies,
    const Turn& turn) {
  const std::int64_t pairs = frequencies.size(0);
  const at::Tensor angles =
      (positions_T.to(at::kDouble).unsqueeze(1) * frequencies.to(at::kDouble)).unsqueeze(1);
  const at::Tensor cosine = at::cos(angles) * turn.attention_factor;
  const at::Tensor sine = at::sin(angles) * turn.attention_factor;
  const at::Tensor turning = x_THP.narrow(2, 0, 2 * pairs);
  const at::Tensor grid = turn.interleaved ? turning.unflatten(2, {pairs, 2}).transpose(2, 3)
                                           : turning.unflatten(2, {2, pairs});
  const at::Tensor a = grid.select(2, 0);
  const at::Tensor b = grid.select(2, 1);
  const at::Tensor turned = at::stack({a * cosine - b * sine, b * cosine + a * sine}, 2);
  const at::Tensor flat = (turn.interleaved ? turned.transpose(2, 3) : turned).flatten(2);
  return at::cat({flat, x_THP.narrow(2, 2 * pairs, x_THP.size(2) - 2 * pairs)}, 2);
}

void expect_like_judge(
    const at::Tensor& x,
    const at::Tensor& positions,
    const at::Tensor& frequencies,
    const Turn& turn) {
  const at::Tensor judge_x = judge_leaf(x);
  const at::Tensor expected = judge_rotary(judge_x, positions, frequencies, turn);
  const at::Tensor y = rotary(x, positions, frequencies, turn.attention_factor, turn.interleaved);
  expect_close(y, expected, "y");
  const at::Tensor dy = at::randn(y.sizes(), at::kDouble).to(y.scalar_type());
  y.backward(dy);
  expected.backward(dy.to(at::kDouble));
  expect_close(x.grad(), judge_x.grad(), "dx");
}

TEST(Rotary, FollowsTheFormulaInAllTypesAndSizes) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const bool interleaved : {false, true}) {
      for (const std::int64_t tokens : {0, 1, 30}) {
        for (const std::int64_t head_dim : {2, 6, 10, 32, 78}) {
          for (const double fraction : {1.0, 0.5}) {
            if (fraction * static_cast<double>(head_dim) < 2.0) {
              continue;
            }
            const RotaryFrequencies found =
                rotary_frequencies({.head_dim = head_dim, .fraction = fraction});
            expect_like_judge(
                random_leaf({tokens, 3, head_dim}, dtype),
                at::randint(0, 5000, {tokens}, at::kLong),
                found.inverse_frequencies,
                {.attention_factor = 1.3, .interleaved = interleaved});
          }
        }
      }
    }
  }
}

TEST(Rotary, StaysExactAtMillionsOfPositions) {
  at::manual_seed(1);
  const at::Tensor frequencies = rotary_frequencies({.head_dim = 64}).inverse_frequencies;
  const at::Tensor positions = at::randint(1000000, 100000000, {20}, at::kLong);
  expect_like_judge(random_leaf({20, 2, 64}, at::kFloat), positions, frequencies, {});
}

TEST(Rotary, ReadsSlicesOfWiderRows) {
  at::manual_seed(1);
  const at::Tensor wide = at::randn({9, 100});
  const at::Tensor x = wide.narrow(1, 4, 48).unflatten(1, {3, 16});
  const at::Tensor positions = at::arange(9, at::kLong);
  const at::Tensor frequencies = rotary_frequencies({.head_dim = 16}).inverse_frequencies;
  EXPECT_TRUE(at::equal(
      rotary(x, positions, frequencies, 1.0, false),
      rotary(x.contiguous(), positions, frequencies, 1.0, false)));
  const at::Tensor turned = at::randn({16, 3, 9}).permute({2, 1, 0});
  EXPECT_TRUE(at::equal(
      rotary(turned, positions, frequencies, 1.0, true),
      rotary(turned.contiguous(), positions, frequencies, 1.0, true)));
}

TEST(Rotary, GivesEqualBitsOnAnyNumberOfThreads) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({600, 4, 64});
  const at::Tensor positions = at::arange(600, at::kLong);
  const at::Tensor frequencies = rotary_frequencies({.head_dim = 64}).inverse_frequencies;
  expect_equal_bits_on_threads(
      [&] { return std::vector{rotary(x, positions, frequencies, 1.0, false)}; });
}

TEST(Rotary, ComputesPlainAndLinearFrequencies) {
  at::manual_seed(1);
  const auto at_pair = [](const RotaryConfig& config, std::int64_t i) {
    return rotary_frequencies(config).inverse_frequencies[i].item<double>();
  };
  // fp32 results.
  EXPECT_NEAR(at_pair({.head_dim = 8, .base = 500000.0}, 3), std::pow(500000.0, -0.75), 1e-11);
  EXPECT_NEAR(at_pair({.head_dim = 8, .scaling = "linear", .factor = 4.0}, 1), 0.1 / 4.0, 1e-8);
  EXPECT_EQ(rotary_frequencies({.head_dim = 10, .fraction = 0.5}).inverse_frequencies.size(0), 2);
  EXPECT_EQ(rotary_frequencies({.scaling = "linear", .factor = 4.0}).attention_factor, 1.0);
}

/// The YaRN paper's equations: the share of a pair is a ramp over its turns' place in the table.
TEST(Rotary, ComputesYarnFrequencies) {
  at::manual_seed(1);
  const RotaryConfig config{
      .head_dim = 64, .scaling = "yarn", .factor = 8.0, .original_length = 2048};
  const RotaryFrequencies found = rotary_frequencies(config);
  const auto place = [](double turns) {
    return 64.0 * std::log(2048.0 / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(1e4));
  };
  const double low = std::floor(place(32.0));
  const double high = std::ceil(place(1.0));
  for (int i = 0; i < 32; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    const double plain = std::pow(1e4, -i / 32.0);
    const double expected = (1.0 - ramp) * plain + ramp * plain / 8.0;
    EXPECT_NEAR(found.inverse_frequencies[i].item<double>() / expected, 1.0, 1e-6) << i;
  }
  EXPECT_DOUBLE_EQ(found.attention_factor, 0.1 * std::log(8.0) + 1.0);
}

TEST(Rotary, ScalesAttentionAsTold) {
  at::manual_seed(1);
  RotaryConfig config{.scaling = "yarn", .factor = 8.0};
  config.mscale = 0.7;
  config.mscale_all_dim = 1.2;
  const double log_factor = std::log(8.0);
  EXPECT_DOUBLE_EQ(
      rotary_frequencies(config).attention_factor,
      (0.07 * log_factor + 1.0) / (0.12 * log_factor + 1.0));
  config.attention_factor = 1.5;
  EXPECT_EQ(rotary_frequencies(config).attention_factor, 1.5);
  EXPECT_EQ(rotary_frequencies({.scaling = "yarn", .factor = 0.5}).attention_factor, 1.0);
}

TEST(Rotary, RefusesWhatDoesNotFit) {
  at::manual_seed(1);
  EXPECT_THROW(rotary_frequencies({.head_dim = 1}), c10::Error);
  EXPECT_THROW(rotary_frequencies({.fraction = 1.5}), c10::Error);
  EXPECT_THROW(rotary_frequencies({.base = 1.0}), c10::Error);
  EXPECT_THROW(rotary_frequencies({.scaling = "ntk"}), c10::Error);
  EXPECT_THROW(rotary_frequencies({.scaling = "linear", .factor = 0.0}), c10::Error);
  const at::Tensor x = at::ones({2, 1, 4});
  const at::Tensor positions = at::arange(2, at::kLong);
  EXPECT_THROW(rotary(x, positions, at::ones({3}), 1.0, false), c10::Error);
  EXPECT_THROW(rotary(x, positions.to(at::kInt), at::ones({2}), 1.0, false), c10::Error);
  EXPECT_THROW(rotary(x, at::arange(3, at::kLong), at::ones({2}), 1.0, false), c10::Error);
}

} // namespace
} // namespace baton::ops
