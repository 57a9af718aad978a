// SPDX-License-Identifier: Apache-2.0
// Launching the kernels of the scan that only sm_90a has.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/ssd_gradient_arguments.cuh"
#include "baton/ops/cuda/ssd_plan.h"
#include "baton/ops/cuda/ssd_sweep.h"

namespace baton::ops::cuda {

/// Whether these kernels take inputs of such sizes, all of `tokens` among them.
bool takes_hopper(
    const Launcher& launcher,
    at::ScalarType dtype,
    const SsdSizes& sizes,
    std::initializer_list<const SsdTokens*> tokens);

/// The forward scan into y [T, H, P], times silu(z) where z is not null. `leaving`, if not null,
/// receives what leaves each sequence.
void launch_hopper_forward(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdTime& time,
    const SsdForwardInputs& inputs,
    const SsdRows* z,
    at::Tensor& y,
    float* leaving);

/// One or two walks at once, whose inputs these kernels take.
void launch_hopper_sweep(
    const Launcher& launcher,
    const SsdPlan& plan,
    const std::vector<SsdSweep>& sweeps);

/// What ssd_hopper_gradients reads.
struct SsdHopperOperands {
  const SsdTokens& dy;
  const SsdTokens& x;
  const SsdTokens& keys;
  const SsdTokens& queries;
  const SsdTime& time;
  const SsdSkip& skip;
  at::Tensor states;  ///< what comes into the chunks, as ssd_hopper_sweep leaves it
  at::Tensor dstates; ///< the gradients of what leaves them, likewise
};

/// The gradients that chunks give.
void launch_hopper_gradients(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdHopperOperands& operands,
    const SsdGradientOutputs& outputs);

} // namespace baton::ops::cuda
