// SPDX-License-Identifier: Apache-2.0
// The gradients of chunks on sm_90a, for bf16 heads of 64 channels: as ssd_gradient_block.cuh says,
// with products of a warpgroup and tiles that the tensor memory accelerator copies.
//
// A block takes one item after the other: a chunk, a group of heads, and a part of the group's
// heads. One warpgroup makes the gradient of x of each head, one adds up the gradients of B and C
// over the heads, and the warps of the third bring tiles, make time steps and write sums. They meet
// at barriers in shared memory alone: a head of an item has a stage, the next head the other one;
// an item's B and C have one of two places.
#pragma once

#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_hopper.cuh"

namespace baton {

/// What a block works on; without heads, that there is nothing more.
struct SsdHopperItem {
  SsdSegment chunk;
  int group;
  int part;
  int first_head;
  int heads;
};

/// Decays between tokens of different quarters of a chunk, as products of two factors:
/// exp(l_i - l_j) = beyond_quarter[q][i] to_quarter[j] for j in quarter q and i in a later one.
struct SsdQuarters {
  float to_quarter[kSsdChunk];        ///< from a token to the end of its quarter
  float beyond_quarter[4][kSsdChunk]; ///< from the end of the quarter to a later token; else 0
};

/// Sums per token of a head, which the kinds of SsdTokenSum name, before the last addition.
struct SsdHopperSums {
  float carried[kSsdChunk];
  float left[kSsdChunk];
  float inside[kSsdChunk];
  float crossing[kSsdChunk];
  float skip[4][kHeadColumns];
  float through[4]; ///< of H G, to be added to the last token's carried sum
};

template <int kN>
struct SsdHopperGradientShared {
  static constexpr int kPanels = kHopperPanels<kN>;

  struct Stage {
    Panel x;
    Panel dy;
    Panel states[kPanels];  ///< what comes into the chunk, [P, N]
    Panel dstates[kPanels]; ///< the gradient of what leaves it
  };
  struct Keys {
    Panel B[kPanels];
    Panel C[kPanels];
  };
  Stage stages[2];
  Keys keys[2];
  Panel suffixes; ///< row k: 1 in columns i >= k
  Panel terms[2]; ///< row j, column i: exp(l_i - l_j) (C_i . B_j) (dy_i . x_j), rounded, and what
                  ///< rounding took away; then, in the first, an item's gradients of scores
  Panel dx;
  SsdTimes<kSsdChunk> times[2];
  SsdQuarters quarters[2];
  float D[2][kHeadColumns];
  SsdHopperSums sums[2];
  SsdHopperItem items[2];
  SharedBarrier keys_full[2];  ///< an item and its B and C have come
  SharedBarrier keys_empty[2]; ///< all are done with them
  SharedBarrier full[2];       ///< a head's tiles have come
  SharedBarrier timed[2];      ///< and its time steps
  SharedBarrier empty[2];      ///< both warpgroups are done with them
  SharedBarrier summed[2];     ///< a head's sums are there
  SharedBarrier written[2];    ///< and in memory
  SharedBarrier scores_left;   ///< an item's gradients of scores are in `terms`
  SharedBarrier scores_taken;  ///< and may be overwritten
};

static_assert(
    sizeof(SsdHopperGradientShared<128>) + 1024 <=
        kHopperGradientPanels<128> * kPanelBytes + kHopperGradientRest,
    "fits");

constexpr int kHopperHelpers = 3; ///< warps beside the warpgroups that follow the items

/// A walk over the items and heads of a block, in the order in which all its threads make it.
/// Barriers of items change their parity at every second item, those of heads at every second turn.
struct SsdHopperTurn {
  int item = 0;
  int turn = 0; ///< over all items

  __device__ int keys() const { return item % 2; }
  __device__ unsigned keys_parity() const { return item / 2 % 2; }
  __device__ int stage() const { return turn % 2; }
  __device__ unsigned parity() const { return turn / 2 % 2; }
  /// Of what was done with the item, or turn, two before.
  __device__ unsigned keys_parity_before() const { return (item / 2 + 1) % 2; }
  __device__ unsigned parity_before() const { return (turn / 2 + 1) % 2; }
};

constexpr int kBothBarrier = 3; ///< of both warpgroups that multiply

/// Zeros in rows of the block's tiles that belong to other sequences: this warpgroup takes `count`
/// panels from `panels` on, the other one its own. Both call it.
__device__ inline void clear_together(Panel* panels, int count, int tokens, int thread) {
  clear_rows(panels, count, tokens, thread);
  named_barrier(kBothBarrier, 2 * kWarpgroup);
}

/// The sum over the four lanes of a row.
__device__ inline float row_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

} // namespace baton
