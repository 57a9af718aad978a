// SPDX-License-Identifier: Apache-2.0
// From what blocks leave of a head in a chunk (SsdTokenSum) to the gradients of its raw time steps,
// of A and of the bias. One warp works on a head, two neighbouring tokens a lane.
#pragma once

#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/ssd_gradient_arguments.cuh"

namespace baton {

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

/// The sum of the lanes' values, for all of them.
__device__ inline float sum_of_lanes(float value) {
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

/// The sums of a token over the passes and owners of its head. Other owners than the first have
/// only the first two kinds.
struct SsdTokenSums {
  const float* sums;
  int passes;
  int owners;

  __device__ float operator()(SsdTokenSum kind, int token) const {
    const int kinds = kind <= kLeftSum ? owners : 1;
    float sum = 0;
    for (int pass = 0; pass < passes; ++pass) {
      for (int owner = 0; owner < kinds; ++owner) {
        sum += sums[((pass * owners + owner) * kTokenSums + kind) * kSsdChunk + token];
      }
    }
    return sum;
  }
};

/// The gradients of two tokens: of dt beside that in dt A, and of dt A.
struct SsdTokenGradients {
  float direct[2];
  float decay[2];
};

/// The gradient of dt A at a token is what passes it: from tokens before it to the next state, from
/// the state to tokens from it on, and between tokens.
__device__ inline SsdTokenGradients add_token_sums(
    const SsdTokenSums& sums,
    const SsdTimes<kSsdChunk>& times) {
  const int lane = warp_lane();
  SsdTokenGradients gradients;
  float carried[2];
  float left[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * lane + i;
    const float left_sum = sums(kLeftSum, token);
    carried[i] = sums(kCarriedSum, token) * times.from_start[token];
    left[i] = left_sum * times.input[token];
    gradients.direct[i] = fmaf(times.to_end[token], left_sum, sums(kInsideSum, token));
    gradients.decay[i] = sums(kCrossingSum, token);
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
  gradients.decay[0] += before + (carried[0] + carried[1] + after);
  gradients.decay[1] += (before + left[0]) + (carried[1] + after);
  return gradients;
}

/// The chunk's part of D's gradient.
__device__ inline void write_skip_sums(
    const SsdTokenSums& sums,
    const SsdTimeGradients& out,
    int head,
    int head_dim,
    float* chunk_row) {
  if (out.D_columns == 0) {
    return;
  }
  float all = 0;
  for (int p = warp_lane(); p < head_dim; p += kWarpThreads) {
    const SsdTokenSums of_pass{
        sums.sums +
            static_cast<long long>(p / kSsdGradientColumns) * sums.owners * kTokenSums * kSsdChunk,
        1,
        sums.owners};
    const float sum = of_pass(kSkipSum, p % kSsdGradientColumns);
    if (out.D_per_channel) {
      chunk_row[static_cast<long long>(head) * head_dim + p] = sum;
    }
    all += sum;
  }
  all = sum_of_lanes(all);
  if (!out.D_per_channel && warp_lane() == 0) {
    chunk_row[head] = all;
  }
}

} // namespace baton
