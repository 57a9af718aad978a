// SPDX-License-Identifier: Apache-2.0
// Launching the walks that keep only the state.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/ssd_plan.h"

namespace baton::ops::cuda {

/// kForward walks the state: values are x, keys B. kReverse walks its gradient from the end:
/// values are dy, keys C.
enum class SsdDirection { kForward, kReverse };

/// A walk over all sequences, each from the entry of `start` that is its own.
struct SsdWalk {
  SsdDirection direction = SsdDirection::kForward;
  const SsdTokens& values;
  const SsdTokens& keys;
  const SsdTime& time;
  const SsdSource& start;
  bool ends =
      true; ///< whether what leaves the sequences is asked for; else those outputs are empty
};

struct SsdSweepOutput {
  at::Tensor states_BHPN;       ///< what leaves each sequence, fp32
  at::Tensor log_decay_BH;      ///< fp32
  at::Tensor chunk_states_KHPN; ///< what comes into chunk k, in the values' dtype, by SsdLayout's
                                ///< numbers; undefined where not asked for
};

/// What comes into each segment of a plan that cuts, fp32 [segments, H, P, N], and what leaves.
struct SsdSegments {
  at::Tensor entering_states;
  at::Tensor states_BHPN;
  at::Tensor log_decay_BH;
};

/// Walks all segments from zero, then over what they leave.
SsdSegments enter_segments(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk);

/// What leaves the sequences, and nothing between.
SsdSweepOutput sweep(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk);

/// The same, and what comes into every chunk. Chunks whose numbers are unused are left undefined.
SsdSweepOutput
sweep_keeping_chunks(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk);

} // namespace baton::ops::cuda
