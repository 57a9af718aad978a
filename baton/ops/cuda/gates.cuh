// SPDX-License-Identifier: Apache-2.0
// What gates channels.
#pragma once

#include "baton/ops/cuda/fast_math.cuh"

namespace baton {

/// 1 / (1 + exp(-x)); exactly 0 where exp(-x) is beyond fp32.
__device__ inline float sigmoid(float x) {
  constexpr float kLog2E = 1.44269504f;
  return fast_reciprocal(1.0f + fast_exp2(-kLog2E * x));
}
__device__ inline double sigmoid(double x) {
  return 1.0 / (1.0 + exp(-x));
}

/// The derivative of silu at x, given s = sigmoid(x).
template <typename S>
__device__ S silu_slope(S x, S s) {
  return s * (1 + x * (1 - s));
}

} // namespace baton
