// SPDX-License-Identifier: Apache-2.0
// The course of the learning rate: warm-up, then constant, linear, cosine, or stable and decay.
#pragma once

#include <cstdint>
#include <string>

#include "baton/base/config.h"

namespace baton::train {

struct ScheduleConfig {
  double lr = 3e-4;
  double min_lr = 0.0;
  std::string schedule = "cosine";
  std::int64_t warmup_steps = 0;
  double decay_fraction = 0.2;
  std::string decay_shape = "linear";

  template <class V>
  void visit(V& v) {
    v.field("lr", lr, "peak learning rate", Range::at_least(0.0));
    v.field("min_lr", min_lr, "learning rate at the end of the decay", Range::at_least(0.0));
    v.field(
        "schedule",
        schedule,
        "course after the warm-up: wsd stays at the peak, then decays over the last part",
        Choice{"constant", "linear", "cosine", "wsd"});
    v.field("warmup_steps", warmup_steps, "steps of linear rise to the peak", Range::at_least(0.0));
    v.field(
        "decay_fraction",
        decay_fraction,
        "part of all steps that wsd's decay takes",
        Range{0.0, 1.0});
    v.field(
        "decay_shape",
        decay_shape,
        "shape of wsd's decay",
        Choice{"linear", "cosine", "one_minus_sqrt"});
  }
};

/// Learning rates of a run of `num_steps` updates.
///
/// Update i (from 0) of w warm-up updates gets lr * (i + 1) / w. After them, with
/// x = (i - w) / (num_steps - w):
/// - constant: lr
/// - linear:   min_lr + (lr - min_lr) * (1 - x)
/// - cosine:   min_lr + (lr - min_lr) * (1 + cos(pi * x)) / 2
/// - wsd:      lr until the last round(decay_fraction * num_steps) updates; over these d updates
///             the decay's shape on x = (i - (num_steps - d)) / d, which is linear or cosine as
///             above or min_lr + (lr - min_lr) * (1 - sqrt(x)). Hu et al., "MiniCPM", 2024.
/// So the first update after the warm-up has the peak, and `min_lr` would be that of update
/// `num_steps`; later ones keep it.
class Schedule {
 public:
  /// Throws where a value is out of range, min_lr is above lr, or warm-up and decay do not fit into
  /// `num_steps`.
  Schedule(ScheduleConfig config, std::int64_t num_steps);

  /// Learning rate of update `step`, counted from 0.
  double lr(std::int64_t step) const;

 private:
  ScheduleConfig config_;
  std::int64_t num_steps_;
  std::int64_t first_decay_; ///< first update of the decay
  std::string shape_;        ///< of the decay; "constant" for none
};

} // namespace baton::train
