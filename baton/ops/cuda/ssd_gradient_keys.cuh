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
  int thread;
  SsdWarpPlace place;

  __device__ explicit SsdKeyGradients(const SsdGradientBlock<T, kSlices, kOwner>& block)
      : block(block), thread(block.thread()), place(thread / kWarpThreads) {}

  __device__ void run() {
    SsdWarpBlock dkeys[Plan::kOwn];
    SsdWarpBlock dqueries[Plan::kOwn];
    wait_for_scores();
#pragma unroll 1
    for (int turn = 0; turn < block.work().turns; ++turn) {
      add_pass(dkeys, dqueries, turn);
    }
    add_scores(dkeys, dqueries);
  }

  /// See SsdGradientBlock::thread().
  __device__ void renew() {
    thread = block.thread();
    place = SsdWarpPlace(thread / kWarpThreads);
  }

  /// The barriers of the other warps' begin().
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
    if (Plan::kAhead == 0 && phase < Plan::kLoads) {
      __syncthreads();
    }
    __syncthreads();
  }

  /// sums += factor values, row by row. Leaves the rows' products with those of the tile that lies
  /// `distance` behind `near` in dots, added to what is there unless it is the first slice. `near`
  /// changes from turn to turn, so that no addresses are held in registers meanwhile.
  __device__ void add_rows(
      SsdWarpBlock& sums,
      SsdWarpBlock& values,
      const float* factors,
      Square near,
      int distance,
      float (&dots)[4][kSsdChunk],
      bool first_slice) {
    float of_rows[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      // Tiles are permuted alike, and so are rows eight apart.
      const T* const rows_of_tile =
          near.at(place.own_row_of(0), place.own_column_of(c)) + distance * Square::size(kSsdChunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float factor = factors[place.own_row_of(i)];
        const float2 other = load_pair(rows_of_tile + 8 * i * Square::kStride);
        const float even = element(values, i, c);
        const float odd = element(values, i, c + 1);
        of_rows[i] = fmaf(even, other.x, fmaf(odd, other.y, of_rows[i]));
        element(sums, i, c) = fmaf(factor, even, element(sums, i, c));
        element(sums, i, c + 1) = fmaf(factor, odd, element(sums, i, c + 1));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float sum = quad_sum(of_rows[i]);
      if (warp_lane() % 4 == 0) {
        float& dot = dots[place.column / 16][place.own_row_of(i)];
        dot = first_slice ? sum : dot + sum;
      }
    }
  }

  __device__ void
  add_pass(SsdWarpBlock (&dkeys)[Plan::kOwn], SsdWarpBlock (&dqueries)[Plan::kOwn], int turn) {
    constexpr int kDepth = kSsdGradientColumns;
    const SsdTimes<kSsdChunk>& times = block.scalars().times[turn % 2];
    SsdWarpSums& sums = block.scalars().sums[turn % 2];
    const int inputs_number = Plan::kInputs + turn % Plan::kBuffers;
    const int slopes_number = Plan::kSlopes + turn % Plan::kBuffers;
    const Square inputs = block.tile(inputs_number);
    const Square slopes = block.tile(slopes_number);
    float through = 0;
#pragma unroll
    for (int phase = 0; phase < Plan::kPhases; ++phase) {
      open_phase(phase);
      renew();
      if (phase < Plan::kOwn) {
        const int stage = (turn * Plan::kLoads + phase) % Plan::kStages;
        const Square states = block.tile(Plan::kStates + stage);
        const Square dstates = block.tile(Plan::kStateGradients + stage);
        through += dot(states, dstates);
        {
          SsdWarpBlock values;
          multiply<kDepth>(values, left(slopes, place.row, 0), right(states, 0, place.column));
          const int queries = Plan::kQueries + (Plan::kKeysStay ? phase : stage);
          add_rows(
              dqueries[phase],
              values,
              times.from_start,
              slopes,
              queries - slopes_number,
              sums.carried,
              phase == 0);
        }
        {
          renew();
          SsdWarpBlock values;
          multiply<kDepth>(values, left(inputs, place.row, 0), right(dstates, 0, place.column));
          const int keys = Plan::kKeys + (Plan::kKeysStay ? phase : stage);
          add_rows(
              dkeys[phase],
              values,
              times.input,
              inputs,
              keys - inputs_number,
              sums.left,
              phase == 0);
        }
        if (phase + 1 == Plan::kOwn) {
          through = warp_sum(through);
          if (warp_lane() == 0) {
            sums.through[place.row / 32 * 4 + place.column / 16] = through;
          }
        }
      }
    }
  }

  /// This thread's share of the sum of the products of two tiles' values.
  __device__ float dot(Square a, Square b) const {
    constexpr int kThreads = kSsdGradientThreads / 2;
    constexpr int kRowsAtOnce = kThreads / Square::kGranules; // a multiple of eight: permuted alike
    const int row = thread / Square::kGranules;
    const int column = thread % Square::kGranules * Square::kGranule;
    const T* const of_a = a.at(row, column);
    const T* const of_b = b.at(row, column);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kSsdChunk; i += kRowsAtOnce) {
      sum += dot_granules(of_a + i * Square::kStride, of_b + i * Square::kStride);
    }
    return sum;
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
        write(static_cast<T*>(block.out.dkeys), block.out.dkeys_stride, dkeys[slice], n);
        write(static_cast<T*>(block.out.dqueries), block.out.dqueries_stride, dqueries[slice], n);
      } else {
        write(static_cast<float*>(block.out.dkeys), block.out.dkeys_stride, dkeys[slice], n);
        write(
            static_cast<float*>(block.out.dqueries), block.out.dqueries_stride, dqueries[slice], n);
      }
    }
  }

  template <typename Out>
  __device__ void write(Out* to, int stride, SsdWarpBlock& sums, int n) {
    constexpr int kGranule = 16 / static_cast<int>(sizeof(Out));
    const long long N = block.layout.state_dim;
    const long long token =
        block.work().part * block.out.tokens + block.work().chunk.first + place.row;
    store_rows(
        sums,
        to + token * stride + block.work().group * N + n,
        stride,
        block.work().chunk.tokens - place.row,
        block.layout.state_dim - n,
        block.layout.state_dim % kGranule == 0);
  }
};

} // namespace baton
