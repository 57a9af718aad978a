// SPDX-License-Identifier: Apache-2.0
// The causal convolution of a mixer, and its SiLU, on tiles of x that the scan has brought to
// shared memory: x goes to memory once less, and comes from there once less. As causal_conv1d.cu
// rounds.
#pragma once

#include "baton/ops/cuda/gates.cuh"
#include "baton/ops/cuda/ssd_hopper.cuh"

namespace baton {

/// Inputs of two neighbouring channels before a token, oldest first.
struct InputsBefore {
  float2 values[kSsdConvWidth - 1] = {};

  __device__ void push(float2 input) {
#pragma unroll
    for (int k = 0; k + 2 < kSsdConvWidth; ++k) {
      values[k] = values[k + 1];
    }
    values[kSsdConvWidth - 2] = input;
  }
};

/// Two neighbouring channels of a head, whose convolution one lane makes.
struct ConvolvedPair {
  float2 weight[kSsdConvWidth]; ///< the newest token's last
  float2 bias;

  __device__ ConvolvedPair(const SsdConvolution& conv, int head) {
    const auto read = [](const void* from, bool fp32, long long at) {
      return fp32 ? static_cast<const float*>(from)[at]
                  : __bfloat162float(static_cast<const __nv_bfloat16*>(from)[at]);
    };
    const long long channel = head * kHeadColumns + 2 * warp_lane();
    const int unused = kSsdConvWidth - conv.width;
    bias = conv.bias == nullptr ? float2{0, 0}
                                : float2{
                                      read(conv.bias, conv.fp32_bias, channel),
                                      read(conv.bias, conv.fp32_bias, channel + 1)};
#pragma unroll
    for (int k = 0; k < kSsdConvWidth; ++k) {
      const long long at = channel * conv.width + k - unused;
      weight[k] = k < unused ? float2{0, 0}
                             : float2{
                                   read(conv.weight, conv.fp32_weight, at),
                                   read(conv.weight, conv.fp32_weight, at + conv.width)};
    }
  }

  /// The sum before the activation.
  __device__ float2 convolve(const InputsBefore& before, float2 input) const {
    float2 sum = bias;
#pragma unroll
    for (int k = 0; k + 1 < kSsdConvWidth; ++k) {
      sum.x = fmaf(weight[k].x, before.values[k].x, sum.x);
      sum.y = fmaf(weight[k].y, before.values[k].y, sum.y);
    }
    return {
        fmaf(weight[kSsdConvWidth - 1].x, input.x, sum.x),
        fmaf(weight[kSsdConvWidth - 1].y, input.y, sum.y)};
  }
};

/// A lane's two channels of a row of a tile of x.
__device__ inline unsigned* pair_of_row(unsigned char* tile, int row) {
  return reinterpret_cast<unsigned*>(tile + swizzled(row, warp_lane() / 4) + warp_lane() % 4 * 4);
}

/// Convolves a sequence's tiles of x in place as they come, from zeros before it. Two warps, `half`
/// 0 and 1, take half of a tile's rows each. Rows beyond the sequence stay as they are.
template <typename Shared>
__device__ void
convolve_tiles(Shared& shared, const SsdSegment& sequence, const ConvolvedPair& pair, int half) {
  constexpr int kStages = Shared::kStages;
  constexpr int kBefore = kSsdConvWidth - 1;
  constexpr int kHalf = kSsdChunk / 2;
  constexpr int kRows = 8; // at a time: each step of all of them before the next
  constexpr int kConvolversBarrier = 2;
  const int chunks = chunks_of(sequence);
  InputsBefore later; // the inputs before the next chunk
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int stage = chunk % kStages;
    const int tokens = min(sequence.tokens - chunk * kSsdChunk, kSsdChunk);
    unsigned char* tile = shared.stages[stage].x;
    shared.full[stage].wait(chunk / kStages % 2);
    InputsBefore before = later;
    // The rows before the next half, as they came: of the second half this chunk's, of the first
    // the next one's.
    const int end = half == 0 ? kSsdChunk : kHalf;
#pragma unroll
    for (int k = 0; k < kBefore; ++k) {
      later.push(unpack_bf16(*pair_of_row(tile, end - kBefore + k)));
    }
    if (half == 1) {
      before = later;
    }
    named_barrier(kConvolversBarrier, 2 * kWarpThreads); // the halves have read each other's rows
    const int last = min(tokens, (half + 1) * kHalf);
#pragma unroll 1
    for (int first = half * kHalf; first < last; first += kRows) {
      unsigned raw[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        raw[i] = *pair_of_row(tile, first + i);
      }
      float2 sums[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float2 input = unpack_bf16(raw[i]);
        sums[i] = pair.convolve(before, input);
        before.push(input);
      }
      float2 gates[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        gates[i] = {sigmoid(sums[i].x), sigmoid(sums[i].y)};
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (first + i < last) {
          *pair_of_row(tile, first + i) = pack_bf16(sums[i].x * gates[i].x, sums[i].y * gates[i].y);
        }
      }
    }
    publish_to_units();
    shared.convolved[stage].arrive();
  }
}

} // namespace baton
