// SPDX-License-Identifier: Apache-2.0
// What the kernels of the scan on sm_90a share: heads of 64 channels, chunks of kSsdChunk tokens,
// tiles as panels of 64 rows and 64 columns of bf16, products of a warpgroup of which warp w has
// rows 16 w to 16 w + 15.
#pragma once

#include "baton/ops/cuda/hopper.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/ssd_hopper_arguments.cuh"

namespace baton {

constexpr int kWarpgroup = 128;                ///< threads
constexpr int kProductSteps = kSsdChunk / 16;  ///< of a product that sums over tokens
using HeldTokens = unsigned[kProductSteps][4]; ///< such a product's left operand
using Panel = unsigned char[kPanelBytes];

/// This thread's number in its warpgroup.
__device__ inline int group_thread() {
  return static_cast<int>(threadIdx.x) % kWarpgroup;
}
/// The first row that a thread has of a product of 64; the other is eight below.
__device__ inline int group_row(int thread = group_thread()) {
  return thread / kWarpThreads * 16 + thread % kWarpThreads / 4;
}
/// The first of the two neighbours that it has of eight columns.
__device__ inline int group_pair(int thread = group_thread()) {
  return thread % 4 * 2;
}

/// Where a lane's row of four 8 x 8 tiles begins in a panel: the upper and lower 8 rows of its
/// warp's at columns 8 n, then those at 8 (n + 1). As load_tiles and store_tiles want it.
__device__ inline unsigned tiles_row(int n, int thread = group_thread()) {
  const int lane = thread % kWarpThreads;
  return swizzled(thread / kWarpThreads * 16 + lane % 16, n + lane / 16);
}

/// Two bf16 values, the first in the low half.
__device__ inline float2 unpack_bf16(unsigned pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
__device__ inline unsigned scale_bf16(unsigned pair, float first, float second) {
  const float2 values = unpack_bf16(pair);
  return pack_bf16(values.x * first, values.y * second);
}

/// Products that write `values` are over: nothing that reads them comes before this.
template <int kBlocks>
__device__ inline void settle(float (&values)[kBlocks][4]) {
#pragma unroll
  for (auto& block : values) {
#pragma unroll
    for (float& value : block) {
      asm volatile("" : "+f"(value)::"memory");
    }
  }
}

/// Rounds this warp's rows of a product into panels, 64 columns each.
template <int kBlocks>
__device__ inline void put_rows(const float (&values)[kBlocks][4], Panel* panels) {
#pragma unroll
  for (int n = 0; n < kBlocks; n += 2) {
    const unsigned rounded[4] = {
        pack_bf16(values[n][0], values[n][1]),
        pack_bf16(values[n][2], values[n][3]),
        pack_bf16(values[n + 1][0], values[n + 1][1]),
        pack_bf16(values[n + 1][2], values[n + 1][3])};
    store_tiles(rounded, panels[n / 8] + tiles_row(n % 8));
  }
}

/// A panel of a chunk's tokens as the left operand of a product that sums over them: its rows are
/// the panel's columns, and token t counts factors[t] times.
__device__ inline void hold_columns(HeldTokens& held, const Panel& panel, const float* factors) {
  const int lane = group_thread() % kWarpThreads;
#pragma unroll
  for (int k = 0; k < kProductSteps; ++k) {
    const int token = k * 16 + lane / 16 * 8 + lane % 8;
    const int granule = group_thread() / kWarpThreads * 2 + lane / 8 % 2;
    load_tiles_transposed(held[k], panel + swizzled(token, granule));
    const float2 first = *reinterpret_cast<const float2*>(&factors[k * 16 + group_pair()]);
    const float2 later = *reinterpret_cast<const float2*>(&factors[k * 16 + group_pair() + 8]);
    held[k][0] = scale_bf16(held[k][0], first.x, first.y);
    held[k][1] = scale_bf16(held[k][1], first.x, first.y);
    held[k][2] = scale_bf16(held[k][2], later.x, later.y);
    held[k][3] = scale_bf16(held[k][3], later.x, later.y);
  }
}

/// Zeros in the rows from `tokens` on of `count` panels, which belong to other sequences and may
/// hold anything. A barrier of the warpgroup must follow.
__device__ inline void
clear_rows(Panel* panels, int count, int tokens, int thread = group_thread()) {
  auto* rows = reinterpret_cast<unsigned char*>(panels);
#pragma unroll 1
  for (int i = thread; i < count * kSsdChunk * 8; i += kWarpgroup) {
    if (i / 8 % kSsdChunk >= tokens) {
      *reinterpret_cast<uint4*>(rows + i * 16) = uint4{0, 0, 0, 0};
    }
  }
  publish_to_units();
}

/// The shared memory of a block as a kernel's own type, whose tiles begin at multiples of 1024.
template <typename Shared>
__device__ Shared& hopper_shared(unsigned char* dynamic) {
  const unsigned begins = shared_address(dynamic);
  return *reinterpret_cast<Shared*>(dynamic + ((begins + 1023) / 1024 * 1024 - begins));
}

/// Chunks of a segment.
__device__ inline int chunks_of(const SsdSegment& segment) {
  return (segment.tokens + kSsdChunk - 1) / kSsdChunk;
}

/// Makes the time steps of every second chunk of a walk, from its `first` on (0 or 1), into the
/// stages of `shared` as they become free, and calls begin(i) in one lane as soon as chunk i's is.
/// One warp.
template <typename Shared, typename Begin>
__device__ void keep_time(
    Shared& shared,
    const SsdTimeInputs& time,
    const SsdSegment& segment,
    int head,
    int first,
    bool reverse,
    const Begin& begin) {
  constexpr int kStages = Shared::kStages;
  const int chunks = chunks_of(segment);
  const auto part = [&](int i) { return reverse ? chunks - 1 - i : i; };
  const auto read = [&](int i) {
    return read_steps<kSsdChunk>(
        time,
        head,
        segment.first + static_cast<long long>(part(i)) * kSsdChunk,
        i < chunks ? segment.tokens - part(i) * kSsdChunk : 0);
  };
  SsdRawSteps<kSsdChunk> raw = read(first);
  for (int i = first; i < chunks; i += 2) {
    if (i >= kStages) {
      shared.empty[i % kStages].wait((i / kStages - 1) % 2);
    }
    if (warp_lane() == 0) {
      begin(i);
    }
    __syncwarp();
    const SsdRawSteps<kSsdChunk> later = read(i + 2);
    write_times(shared.times[i % kStages], time, head, raw, segment.tokens - part(i) * kSsdChunk);
    shared.timed[i % kStages].arrive();
    raw = later;
  }
}

} // namespace baton
