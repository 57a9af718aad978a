// SPDX-License-Identifier: Apache-2.0
// Steps of layers in phases, which chains of steps run together.
#pragma once

#include <memory>
#include <vector>

#include "baton/ops/cpu/phases.h"

namespace baton::ops::cpu {

/// A layer's step. It owns what its phases touch, since they may run later than it is made, and
/// reads no value before that which a step before it makes.
class PhasedStep {
 public:
  PhasedStep() = default;
  PhasedStep(const PhasedStep&) = delete;
  PhasedStep& operator=(const PhasedStep&) = delete;
  virtual ~PhasedStep() = default;

  /// They refer to this object.
  virtual std::vector<Phase> phases() = 0;
};

/// Runs a step, or hands it to the thread's StepChain.
void run_step(std::unique_ptr<PhasedStep> step);

} // namespace baton::ops::cpu
