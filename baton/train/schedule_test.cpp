// SPDX-License-Identifier: Apache-2.0
#include "baton/train/schedule.h"

#include <cmath>
#include <numbers>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace baton::train {
namespace {

// The formulas in another order of operations: some units in the last place of fp64.
constexpr double kTolerance = 1e-15;

ScheduleConfig config_of(const std::string& schedule) {
  ScheduleConfig config;
  config.lr = 0.01;
  config.min_lr = 0.001;
  config.schedule = schedule;
  config.warmup_steps = 10;
  return config;
}

TEST(Schedule, WarmsUpLinearlyToThePeak) {
  for (const std::string name : {"constant", "linear", "cosine", "wsd"}) {
    const Schedule schedule(config_of(name), 100);
    EXPECT_NEAR(schedule.lr(0), 0.001, kTolerance) << name;
    EXPECT_NEAR(schedule.lr(4), 0.005, kTolerance) << name;
    EXPECT_NEAR(schedule.lr(9), 0.01, kTolerance) << name;
    EXPECT_NEAR(schedule.lr(10), 0.01, kTolerance) << name;
  }
}

TEST(Schedule, ConstantStaysAtThePeak) {
  const Schedule schedule(config_of("constant"), 100);
  EXPECT_EQ(schedule.lr(50), 0.01);
  EXPECT_EQ(schedule.lr(100), 0.01);
  EXPECT_EQ(schedule.lr(1000), 0.01);
}

TEST(Schedule, LinearFallsToTheMinimum) {
  const Schedule schedule(config_of("linear"), 110);
  EXPECT_NEAR(schedule.lr(60), 0.0055, kTolerance);
  EXPECT_NEAR(schedule.lr(109), 0.001 + 0.009 * 0.01, kTolerance);
  EXPECT_NEAR(schedule.lr(110), 0.001, kTolerance);
  EXPECT_NEAR(schedule.lr(5000), 0.001, kTolerance);
}

TEST(Schedule, CosineFallsToTheMinimum) {
  const Schedule schedule(config_of("cosine"), 110);
  EXPECT_NEAR(schedule.lr(60), 0.0055, kTolerance);
  const double quarter = 0.001 + 0.009 * (1 + std::cos(std::numbers::pi / 4)) / 2;
  EXPECT_NEAR(schedule.lr(35), quarter, kTolerance);
  EXPECT_NEAR(schedule.lr(110), 0.001, kTolerance);
}

TEST(Schedule, WsdIsStableAndThenDecays) {
  ScheduleConfig config = config_of("wsd");
  config.decay_fraction = 0.25;
  const Schedule linear(config, 100);
  EXPECT_EQ(linear.lr(74), 0.01);
  EXPECT_NEAR(linear.lr(75), 0.01, kTolerance);
  EXPECT_NEAR(linear.lr(80), 0.01 - 0.009 * 5 / 25, kTolerance);
  EXPECT_NEAR(linear.lr(100), 0.001, kTolerance);
  config.decay_shape = "one_minus_sqrt";
  EXPECT_NEAR(Schedule(config, 100).lr(79), 0.001 + 0.009 * (1 - std::sqrt(4.0 / 25)), kTolerance);
  config.decay_shape = "cosine";
  EXPECT_NEAR(
      Schedule(config, 100).lr(85),
      0.001 + 0.009 * (1 + std::cos(std::numbers::pi * 0.4)) / 2,
      kTolerance);
}

TEST(Schedule, TakesRunsWithoutSomeOfItsParts) {
  ScheduleConfig config = config_of("wsd");
  config.decay_fraction = 0.0;
  EXPECT_EQ(Schedule(config, 20).lr(19), 0.01);
  EXPECT_NEAR(Schedule(config, 20).lr(20), 0.001, kTolerance);
  config = config_of("cosine");
  EXPECT_EQ(Schedule(config, 10).lr(9), 0.01);
  config.warmup_steps = 0;
  EXPECT_NEAR(Schedule(config, 10).lr(0), 0.01, kTolerance);
  EXPECT_NEAR(Schedule(config, 0).lr(0), 0.001, kTolerance);
}

TEST(Schedule, RefusesWhatDoesNotFit) {
  EXPECT_THROW(Schedule(config_of("cosine"), 9), c10::Error);
  EXPECT_THROW(Schedule(config_of("cosine"), -1), c10::Error);
  EXPECT_THROW(Schedule(config_of("step"), 100), c10::Error);
  ScheduleConfig config = config_of("wsd");
  config.decay_fraction = 0.95;
  EXPECT_THROW(Schedule(config, 100), c10::Error);
  config.decay_fraction = 1.5;
  EXPECT_THROW(Schedule(config, 100), c10::Error);
  config = config_of("wsd");
  config.decay_shape = "square";
  EXPECT_THROW(Schedule(config, 100), c10::Error);
  config = config_of("linear");
  config.min_lr = 0.02;
  EXPECT_THROW(Schedule(config, 100), c10::Error);
  EXPECT_THROW(Schedule(config_of("linear"), 100).lr(-1), c10::Error);
}

TEST(Schedule, ListsItsFields) {
  ScheduleConfig config;
  EXPECT_EQ(config_fields(config).size(), 6U);
}

} // namespace
} // namespace baton::train
