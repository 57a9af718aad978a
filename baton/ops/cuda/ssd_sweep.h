// SPDX-License-Identifier: Apache-2.0
// Launching the walks that keep only the state.
#pragma once

#include <vector>

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

/// A launch's share of a walk: through all segments, from `incoming`.
struct SsdSweep {
  const SsdWalk& walk; ///< but for its start
  const SsdSource& incoming;
  SsdSweepOutputs outputs;
};

/// One or two of them, as kernels take them.
SsdSweepWalks walks_of(const std::vector<SsdSweep>& sweeps);

struct SsdSweepOutput {
  at::Tensor states_BHPN;  ///< what leaves each sequence, fp32
  at::Tensor log_decay_BH; ///< fp32
};

/// What comes into each segment of a plan that cuts, fp32 [segments, H, P, N], and what leaves.
struct SsdSegments {
  at::Tensor entering_states;
  at::Tensor states_BHPN;
  at::Tensor log_decay_BH;
};

/// Walks all segments from zero, then over what they leave; where sequences have two segments at
/// most and their ends are not asked for, only the first ones, from where they start.
SsdSegments enter_segments(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk);

/// What leaves the sequences, and nothing between.
SsdSweepOutput sweep(const Launcher& launcher, const SsdPlan& plan, const SsdWalk& walk);

/// What the walks of a backward scan leave. Chunks whose numbers are unused are left undefined.
struct SsdChunkStates {
  at::Tensor entering_KHPN; ///< what comes into each chunk, in the values' dtype (see SsdLayout,
                            ///< SsdSweepOutputs)
  at::Tensor leaving_KHPN;  ///< the gradient of what leaves it
  at::Tensor dinitial_BHPN; ///< what the backward walk leaves, if its ends are asked for; fp32
};

/// A forward walk, whose ends are not asked for, and a backward one over the same tokens.
SsdChunkStates sweep_both_ways(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdWalk& forward,
    const SsdWalk& backward);

} // namespace baton::ops::cuda
