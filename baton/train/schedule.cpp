// SPDX-License-Identifier: Apache-2.0
#include "baton/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include <c10/util/Exception.h>

namespace baton::train {
namespace {

/// From 1 at x = 0 to 0 at x = 1.
double remaining(const std::string& shape, double x) {
  if (shape == "linear") {
    return 1.0 - x;
  }
  if (shape == "cosine") {
    return 0.5 * (1.0 + std::cos(std::numbers::pi * x));
  }
  if (shape == "one_minus_sqrt") {
    return 1.0 - std::sqrt(x);
  }
  TORCH_CHECK(
      false, "the decay's shape must be linear, cosine or one_minus_sqrt, got '", shape, "'");
}

void check_config(const ScheduleConfig& config, std::int64_t num_steps) {
  TORCH_CHECK(num_steps >= 0, "the number of steps must not be negative: ", num_steps);
  TORCH_CHECK(
      config.min_lr >= 0.0 && config.min_lr <= config.lr,
      "min_lr must be from 0 to lr: ",
      config.min_lr,
      " vs ",
      config.lr);
  TORCH_CHECK(
      config.warmup_steps >= 0 && config.warmup_steps <= num_steps,
      "warmup_steps must be from 0 to the number of steps: ",
      config.warmup_steps,
      " vs ",
      num_steps);
  TORCH_CHECK(
      config.decay_fraction >= 0.0 && config.decay_fraction <= 1.0,
      "decay_fraction must be from 0 to 1: ",
      config.decay_fraction);
}

} // namespace

Schedule::Schedule(ScheduleConfig config, std::int64_t num_steps)
    : config_(std::move(config)),
      num_steps_(num_steps),
      first_decay_(config_.warmup_steps),
      shape_(config_.schedule) {
  check_config(config_, num_steps);
  if (shape_ == "constant") {
    return;
  }
  if (shape_ == "wsd") {
    const auto decay_steps = static_cast<std::int64_t>(
        std::nearbyint(config_.decay_fraction * static_cast<double>(num_steps)));
    TORCH_CHECK(
        config_.warmup_steps + decay_steps <= num_steps,
        "warm-up and decay must fit into the steps: ",
        config_.warmup_steps,
        " + ",
        decay_steps,
        " vs ",
        num_steps);
    first_decay_ = num_steps - decay_steps;
    shape_ = config_.decay_shape;
  } else {
    TORCH_CHECK(
        shape_ == "linear" || shape_ == "cosine",
        "schedule must be constant, linear, cosine or wsd, got '",
        shape_,
        "'");
  }
  remaining(shape_, 0.0); // refuses an unknown shape now, not when the decay begins
}

double Schedule::lr(std::int64_t step) const {
  TORCH_CHECK(step >= 0, "steps count from 0, got ", step);
  if (step < config_.warmup_steps) {
    return config_.lr * static_cast<double>(step + 1) / static_cast<double>(config_.warmup_steps);
  }
  if (shape_ == "constant" || step < first_decay_) {
    return config_.lr;
  }
  const std::int64_t length = num_steps_ - first_decay_;
  const double x =
      length == 0
          ? 1.0
          : std::min(1.0, static_cast<double>(step - first_decay_) / static_cast<double>(length));
  return config_.min_lr + (config_.lr - config_.min_lr) * remaining(shape_, x);
}

} // namespace baton::train
