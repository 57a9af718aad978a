// SPDX-License-Identifier: Apache-2.0
#include "baton/base/random.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(Random, SameKeySameValuesAndSlicesAgree) {
  const RandomKey key = RandomKey(7).with("initial").with("layers.0.mixer.in_proj.weight");
  const at::Tensor whole = uniform(key, {100, 3}, -1.0, 1.0);
  EXPECT_TRUE(at::equal(whole, uniform(key, {100, 3}, -1.0, 1.0)));
  EXPECT_TRUE(at::equal(whole.slice(0, 0, 40), uniform(key, {40, 3}, -1.0, 1.0)));
  EXPECT_FALSE(at::equal(whole, uniform(key.with(std::uint64_t{1}), {100, 3}, -1.0, 1.0)));
}

TEST(Random, MomentsOfUniformAndNormal) {
  const RandomKey key(11);
  const at::Tensor flat = uniform(key.with("u"), {200000}, 0.0, 1.0);
  EXPECT_NEAR(flat.mean().item<double>(), 0.5, 0.005);
  EXPECT_GE(flat.min().item<double>(), 0.0);
  EXPECT_LT(flat.max().item<double>(), 1.0);
  const at::Tensor bell = normal(key.with("n"), {200000}, 2.0);
  EXPECT_NEAR(bell.mean().item<double>(), 0.0, 0.02);
  EXPECT_NEAR(bell.std().item<double>(), 2.0, 0.02);
}

// Known answer of Philox 4x32-10 for an all-zero counter and key, from the paper's reference code.
TEST(Random, PhiloxKnownAnswer) {
  const auto words = philox(RandomKey(0), 0);
  EXPECT_EQ(words[0], 0x6627e8d5U);
  EXPECT_EQ(words[1], 0xe169c58dU);
  EXPECT_EQ(words[2], 0xbc57ac4cU);
  EXPECT_EQ(words[3], 0x9b00dbd8U);
}

} // namespace
} // namespace baton
