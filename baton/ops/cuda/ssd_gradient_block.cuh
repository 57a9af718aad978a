// SPDX-License-Identifier: Apache-2.0
// The gradients that one chunk of tokens gives in one group of heads, once the states on both sides
// of it are known. With l the running sum of dt A in the chunk, l_Q its end, H the state that comes
// in and G the gradient of the state that leaves:
//   du_j = exp(l_Q - l_j) G B_j + sum_{i >= j} exp(l_i - l_j) (C_i . B_j) dy_i,
//   dx_j = dt_j du_j + D dy_j, and x_j . du_j is dt's gradient beside that in dt A;
//   dC_i = exp(l_i) H^T dy_i + sum_j S_ij B_j, dB_j = exp(l_Q - l_j) dt_j G^T x_j + sum_i S_ij C_i,
//   where S_ij = exp(l_i - l_j) dt_j (dy_i . x_j) for j <= i is first added up over the heads;
//   the gradient of dt A at token k is what passes k: from tokens before it to tokens from it on
//   ("crossing"), from the state to tokens from it on ("carried"), from tokens before it to the
//   next state ("left"), and from state to state.
// Each of these sums is added up as it stands: as differences of row and column sums they would
// cancel under strong decays.
//
// All products are of 64 x 64 tiles: wider heads take several passes, wider states several slices.
// Of the 16 warps of a block, eight work on x (ssd_gradient_inputs.cuh) and eight on B and C
// (ssd_gradient_keys.cuh), each on 32 rows and 16 columns of a tile. Both walk over heads and
// passes in the same phases, which barriers separate.
#pragma once

#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/ssd_gradient_arguments.cuh"
#include "baton/ops/cuda/tile_product.cuh"

namespace baton {

/// Sums over the columns, or rows, of the warps' blocks.
struct SsdWarpSums {
  float carried[4][kSsdChunk];
  float left[4][kSsdChunk];
  float inside[4][kSsdChunk];
  float crossing[2][kSsdChunk];
  float skip[2][kSsdGradientColumns];
  float through[8]; ///< of H G
};

/// In shared memory beside the tiles.
struct SsdGradientScalars {
  SsdTimes<kSsdChunk> times[2]; ///< of the heads of even and odd turns
  SsdWarpSums sums[2];          ///< of even and odd turns
  SsdSegment chunk;
};

static_assert(sizeof(SsdGradientScalars) <= kSsdGradientScalarBytes);

/// Where the work of a block lies.
template <typename T, int kSlices, int kOwner>
struct SsdGradientBlock {
  using Plan = SsdGradientPlan<sizeof(T), kSlices, kOwner>;
  using Square = Tile<T, kSsdGradientColumns>;

  const SsdLayout& layout;
  const SsdGradientInputs& in;
  const SsdGradientOutputs& out;
  int group;
  int part;

  __device__ int passes() const {
    return (layout.head_dim + kSsdGradientColumns - 1) / kSsdGradientColumns;
  }
  __device__ int first_head() const {
    const int heads = layout.heads / layout.groups;
    return group * heads + heads * part / out.parts;
  }
  __device__ int end_head() const {
    const int heads = layout.heads / layout.groups;
    return group * heads + heads * (part + 1) / out.parts;
  }
  __device__ Square tile(int number) const {
    return {reinterpret_cast<T*>(dynamic_shared()) + number * Square::size(kSsdChunk)};
  }
  /// B of a slice (counted from the block's first).
  __device__ Square keys(int slice, int stage) const {
    return tile(Plan::kKeys + (Plan::kKeysStay ? slice : stage));
  }
  __device__ Square queries(int slice, int stage) const {
    return tile(Plan::kQueries + (Plan::kKeysStay ? slice : stage));
  }
  __device__ SsdGradientScalars& scalars() const {
    return *reinterpret_cast<SsdGradientScalars*>(tile(Plan::kTiles).data);
  }
  /// Read anew each time: there are no registers to keep it in.
  __device__ const SsdSegment& chunk() const { return scalars().chunk; }
};

/// A warp's place in a tile, of which it has 32 rows and 16 columns.
struct SsdWarpPlace {
  int row;
  int column;

  __device__ explicit SsdWarpPlace(int warp) : row(warp / 4 * 32), column(warp % 4 * 16) {}
  /// The i-th (0 to 3) row that this lane owns.
  __device__ int own_row_of(int i) const { return row + i / 2 * 16 + own_row(i % 2 * 2); }
  /// The i-th (0 to 3) column.
  __device__ int own_column_of(int i) const { return column + i / 2 * 8 + own_column(i % 2); }
};
using SsdWarpBlock = WarpSums<32, 16>;

/// Element of a block in a lane's i-th row and c-th column.
__device__ inline float& element(SsdWarpBlock& block, int i, int c) {
  return block.values[i / 2][c / 2][i % 2 * 2 + c % 2];
}

__device__ inline int next_of(int index, int count) {
  return index + 1 == count ? 0 : index + 1;
}

/// The sum over the four lanes of a row.
__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

/// The sum over the eight rows of a 16 x 8 block that lanes share.
__device__ inline float rows_sum(float value) {
#pragma unroll
  for (int step = 4; step < kWarpThreads; step *= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

__device__ inline float warp_sum(float value) {
  return rows_sum(quad_sum(value));
}

} // namespace baton
