// SPDX-License-Identifier: Apache-2.0
// What the kernels of the scan on sm_90a take beside ssd_arguments.cuh and
// ssd_gradient_arguments.cuh, as their host code fills it in, and the shared memory that they ask
// for, counted in panels: 64 rows of 64 bf16 values.
#pragma once

#include "baton/ops/cuda/ssd_arguments.cuh"
#include "baton/ops/cuda/ssd_gradient_arguments.cuh"

namespace baton {

constexpr int kHeadColumns = 64; ///< channels of a head
constexpr int kPanelBytes = kSsdChunk * 128;

/// For each state dim N, panels of a tile of B, of C or of a state.
template <int kN>
constexpr int kHopperPanels = kN / 64;

/// Stages of x, B and C, a state and y.
template <int kN>
constexpr int kHopperForwardPanels = 2 * (1 + 2 * kHopperPanels<kN>)+kHopperPanels<kN> + 1;
/// Stages of x and B (or dy and C), and two states on their way out, for so many columns.
template <int kColumns>
constexpr int kHopperSweepPanels = 3 * (1 + kColumns / 64) + 2 * (kColumns / 64);
/// Stages of x, dy and two states, B and C of two items, and four tiles.
template <int kN>
constexpr int kHopperGradientPanels = 2 * (2 + 2 * kHopperPanels<kN>)+4 * kHopperPanels<kN> + 4;

/// Of shared memory, beside panels: all that is smaller, and what lies before the first multiple
/// of 1024.
constexpr int kHopperRest = 6 << 10;
constexpr int kHopperGradientRest = 16 << 10;

constexpr int kHopperThreads = 256;         ///< of a block of ssd_hopper and ssd_hopper_sweep
constexpr int kHopperGradientThreads = 384; ///< of a block of ssd_hopper_gradients

/// What ssd_hopper_gradients reads beside tiles of x, dy, B and C. States are as
/// ssd_hopper_sweep leaves them.
struct SsdHopperGradientInputs {
  const unsigned char* states;
  const unsigned char* dstates;
  SsdSkipInputs D;
};

} // namespace baton
