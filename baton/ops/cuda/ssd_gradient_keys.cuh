// SPDX-License-Identifier: Apache-2.0
// The warps of a block that add up the gradients of B and C over its heads
// (ssd_gradient_block.cuh).
#pragma once

#include "baton/ops/cuda/ssd_gradient_block.cuh"

namespace baton {

/// The products of the values in 16 bytes with those in 16 others, added up.
__device__ inline float dot_granules(const float* a, const float* b) {
  const float4 left = *reinterpret_cast<const float4*>(a);
  const float4 right = *reinterpret_cast<const float4*>(b);
  return fmaf(left.x, right.x, left.y * right.y) + fmaf(left.z, right.z, left.w * right.w);
}
__device__ inline float dot_granules(const __nv_bfloat16* a, const __nv_bfloat16* b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float2 left = load_pair(a + i);
    const float2 right = load_pair(b + i);
    sum = fmaf(left.x, right.x, fmaf(left.y, right.y, sum));
  }
  return sum;
}

template <typename T, int kSlices, int kOwner>
struct SsdKeyGradients {
  using Plan = SsdGradientPlan<sizeof(T), kSlices, kOwner>;
  using Square = Tile<T, kSsdGradientColumns>;

  const SsdGradientBlock<T, kSlices, kOwner>& block;
  int thread; ///< of the warps that do this
  SsdWarpPlace place;
  int stage = Plan::kStages - 1;

  __device__ SsdKeyGradients(const SsdGradientBlock<T, kSlices, kOwner>& block, int thread)
      : block(block), thread(thread), place(warp_index() % 8) {}

  __device__ void run() {
    SsdWarpBlock dkeys[Plan::kOwn];
    SsdWarpBlock dqueries[Plan::kOwn];
    wait_for_scores();
    int turn = 0;
    for (int head = block.first_head(); head < block.end_head(); ++head) {
      for (int pass = 0; pass < block.passes(); ++pass, ++turn) {
        add_pass(dkeys, dqueries, head, turn);
      }
    }
    add_scores(dkeys, dqueries);
  }

  /// The barriers of the other warps' scores().
  __device__ void wait_for_scores() {
    if constexpr (Plan::kFirst) {
      if constexpr (Plan::kKeysStay) {
        __syncthreads();
      } else {
        for (int slice = 0; slice < 2 * kSlices; ++slice) {
          __syncthreads();
        }
      }
    }
  }

  __device__ void open_phase(int phase) {
    if (phase < Plan::kLoads) {
      stage = next_of(stage, Plan::kStages);
      if constexpr (Plan::kAhead == 0) {
        __syncthreads();
      }
    }
    __syncthreads();
  }

  /// sums += factor values, row by row, and dots += the products with the rows of `with`.
  __device__ void add_rows(
      SsdWarpBlock& sums,
      float (&dots)[4],
      SsdWarpBlock& values,
      const float* factors,
      Square with) {
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      // Rows eight apart are permuted alike.
      const T* const rows_of_with = with.at(place.own_row_of(0), place.own_column_of(c));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float factor = factors[place.own_row_of(i)];
        const float2 other = load_pair(rows_of_with + 8 * i * Square::kStride);
        const float even = element(values, i, c);
        const float odd = element(values, i, c + 1);
        dots[i] = fmaf(even, other.x, fmaf(odd, other.y, dots[i]));
        element(sums, i, c) = fmaf(factor, even, element(sums, i, c));
        element(sums, i, c + 1) = fmaf(factor, odd, element(sums, i, c + 1));
      }
    }
  }

  __device__ void add_pass(
      SsdWarpBlock (&dkeys)[Plan::kOwn],
      SsdWarpBlock (&dqueries)[Plan::kOwn],
      int head,
      int turn) {
    constexpr int kDepth = kSsdGradientColumns;
    const SsdTimes<kSsdChunk>& times = block.scalars().times[head % 2];
    const Square inputs = block.tile(Plan::kInputs + turn % Plan::kBuffers);
    const Square slopes = block.tile(Plan::kSlopes + turn % Plan::kBuffers);
    float carried[4] = {0, 0, 0, 0};
    float left_dots[4] = {0, 0, 0, 0};
    float through = 0;
#pragma unroll
    for (int phase = 0; phase < Plan::kPhases; ++phase) {
      open_phase(phase);
      if (phase < Plan::kOwn) {
        const Square states = block.tile(Plan::kStates + stage);
        const Square dstates = block.tile(Plan::kStateGradients + stage);
        {
          SsdWarpBlock values;
          multiply<kDepth>(values, left(slopes, place.row, 0), right(states, 0, place.column));
          add_rows(dqueries[phase], carried, values, times.from_start, block.queries(phase, stage));
        }
        {
          SsdWarpBlock values;
          multiply<kDepth>(values, left(inputs, place.row, 0), right(dstates, 0, place.column));
          add_rows(dkeys[phase], left_dots, values, times.input, block.keys(phase, stage));
        }
        through += dot(states, dstates);
        if (phase + 1 == Plan::kOwn) {
          leave(block.scalars().sums[turn % 2], carried, left_dots, through);
        }
      }
    }
  }

  /// This thread's share of the sum of the products of two tiles' values.
  __device__ float dot(Square a, Square b) const {
    constexpr int kThreads = kSsdGradientThreads / 2;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kSsdChunk * Square::kGranules; i += kThreads) {
      const int row = (i + thread) / Square::kGranules;
      const int column = (i + thread) % Square::kGranules * Square::kGranule;
      sum += dot_granules(a.at(row, column), b.at(row, column));
    }
    return sum;
  }

  __device__ void
  leave(SsdWarpSums& sums, const float (&carried)[4], const float (&left_dots)[4], float through) {
    const int warp = warp_index() % 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float of_carried = quad_sum(carried[i]);
      const float of_left = quad_sum(left_dots[i]);
      if (warp_lane() % 4 == 0) {
        sums.carried[warp % 4][place.own_row_of(i)] = of_carried;
        sums.left[warp % 4][place.own_row_of(i)] = of_left;
      }
    }
    through = warp_sum(through);
    if (warp_lane() == 0) {
      sums.through[warp] = through;
    }
  }

  /// From the gradients of the scores, which the other warps leave, and to memory.
  __device__ void add_scores(
      SsdWarpBlock (&dkeys)[Plan::kOwn],
      SsdWarpBlock (&dqueries)[Plan::kOwn]) {
    const Square weights = block.tile(Plan::kWeights);
    __syncthreads();
    __syncthreads();
#pragma unroll
    for (int slice = 0; slice < Plan::kOwn; ++slice) {
      if constexpr (!Plan::kKeysStay) {
        __syncthreads();
        __syncthreads();
      }
      multiply<kSsdChunk>(
          dkeys[slice],
          left(weights, place.row, 0),
          right(block.queries(slice, 0), 0, place.column));
      multiply<kSsdChunk>(
          dqueries[slice],
          left_transposed(weights, 0, place.row),
          right(block.keys(slice, 0), 0, place.column));
      const int n = (kOwner * kSsdOwnSlices + slice) * kSsdGradientColumns + place.column;
      if (block.out.parts == 1) {
        write(static_cast<T*>(block.out.dkeys), dkeys[slice], n);
        write(static_cast<T*>(block.out.dqueries), dqueries[slice], n);
      } else {
        write(static_cast<float*>(block.out.dkeys), dkeys[slice], n);
        write(static_cast<float*>(block.out.dqueries), dqueries[slice], n);
      }
    }
  }

  template <typename Out>
  __device__ void write(Out* to, SsdWarpBlock& sums, int n) {
    constexpr int kGranule = 16 / static_cast<int>(sizeof(Out));
    const long long N = block.layout.state_dim;
    const int stride = block.layout.groups * block.layout.state_dim;
    const long long token = block.part * block.out.tokens + block.chunk.first + place.row;
    store_rows(
        sums,
        to + token * stride + block.group * N + n,
        stride,
        block.chunk.tokens - place.row,
        block.layout.state_dim - n,
        block.layout.state_dim % kGranule == 0);
  }
};

} // namespace baton
