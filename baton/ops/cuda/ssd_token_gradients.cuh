// SPDX-License-Identifier: Apache-2.0
// From what the blocks of warps leave of a head in a chunk to the gradients of its raw time steps,
// of A and of the bias. One warp works on a head, two neighbouring tokens a lane.
#pragma once

#include <cuda_bf16.h>

#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/ssd_gradient_arguments.cuh"

namespace baton {

/// Per token, see ssd_chunk_gradients.cuh; each warp leaves the sums over the columns of its block.
struct SsdHeadParts {
  float carried[4][kSsdChunk]; ///< C_i . H^T dy_i
  float left[4][kSsdChunk];    ///< B_j . G^T x_j
  float inside[4][kSsdChunk];  ///< sum_i exp(l_i - l_j) (C_i . B_j) (dy_i . x_j)
  float crossing[2][kSsdChunk];
  float skip[2][kSsdGradientColumns]; ///< sum_i dy_i x_i of each channel
  float through[8];                   ///< sum of H G
};

/// The gradients of two tokens: of dt beside that in dt A, and of dt A.
struct SsdTokenGradients {
  float direct[2] = {0, 0};
  float decay[2] = {0, 0};
};

template <typename S>
__device__ S warp_sum(S value) {
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

/// The derivative of time_step() by the raw step: 0 where the limits cut.
__device__ inline float time_step_slope(const SsdTimeInputs& time, float bias, float raw) {
  constexpr float kLinear = 20.0f;
  const float value = raw + bias;
  if (!time.softplus || value > kLinear) {
    return value < time.min || value > time.max ? 0.0f : 1.0f;
  }
  const float step = log1pf(expf(value));
  const float tail = expf(-fabsf(value));
  const float slope = (value < 0 ? tail : 1.0f) / (1.0f + tail);
  return step < time.min || step > time.max ? 0.0f : slope;
}

/// Adds what the parts say to `sums`.
__device__ inline void add_parts(
    SsdTokenGradients& sums,
    const SsdTimes<kSsdChunk>& times,
    const SsdHeadParts& parts) {
  const int lane = warp_lane();
  float carried[2] = {0, 0};
  float left[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * lane + i;
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) {
      carried[i] += parts.carried[warp][token];
      left[i] += parts.left[warp][token];
      sums.direct[i] += parts.inside[warp][token];
    }
    carried[i] *= times.from_start[token];
    sums.direct[i] = fmaf(times.to_end[token], left[i], sums.direct[i]);
    left[i] *= times.input[token];
  }
  float before = left[0] + left[1];
  float after = carried[0] + carried[1];
#pragma unroll
  for (int by = 1; by < kWarpThreads; by *= 2) {
    const float lower = __shfl_up_sync(0xffffffffu, before, by);
    const float upper = __shfl_down_sync(0xffffffffu, after, by);
    before += lane >= by ? lower : 0.0f;
    after += lane + by < kWarpThreads ? upper : 0.0f;
  }
  before = __shfl_up_sync(0xffffffffu, before, 1); // of the lanes before this one
  after = __shfl_down_sync(0xffffffffu, after, 1); // of those behind it
  before = lane > 0 ? before : 0.0f;
  after = lane + 1 < kWarpThreads ? after : 0.0f;
  float through = 0;
#pragma unroll
  for (int warp = 0; warp < 8; ++warp) {
    through += parts.through[warp];
  }
  through *= times.decay;
  sums.decay[0] += through + before + (carried[0] + carried[1] + after);
  sums.decay[1] += through + (before + left[0]) + (carried[1] + after);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sums.decay[i] += parts.crossing[0][2 * lane + i] + parts.crossing[1][2 * lane + i];
  }
}

/// Writes the gradients of raw dt, [T, H], and the chunk's sums for A and the bias.
__device__ inline void write_token_gradients(
    const SsdLayout& layout,
    const SsdTimeInputs& time,
    const SsdGradientOutputs& out,
    const SsdTimes<kSsdChunk>& times,
    const float (&slopes)[kSsdChunk],
    const SsdTokenGradients& sums,
    int head,
    const SsdSegment& chunk) {
  const float A = time.A_H[head];
  float of_A = 0;
  float of_bias = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * warp_lane() + i;
    const float gradient = fmaf(A, sums.decay[i], sums.direct[i]) * slopes[token];
    if (token < chunk.tokens) {
      of_A += times.step[token] * sums.decay[i];
      of_bias += gradient;
      const long long at = (chunk.first + token) * layout.heads + head;
      if (time.dt_is_fp32) {
        static_cast<float*>(out.ddt)[at] = gradient;
      } else {
        static_cast<__nv_bfloat16*>(out.ddt)[at] = __float2bfloat16(gradient);
      }
    }
  }
  of_A = warp_sum(of_A);
  of_bias = warp_sum(of_bias);
  if (warp_lane() == 0) {
    float* row = out.chunk_sums + chunk.chunk * (2ll * layout.heads + out.dD_columns);
    row[head] = of_A;
    row[layout.heads + head] = of_bias;
  }
}

} // namespace baton
