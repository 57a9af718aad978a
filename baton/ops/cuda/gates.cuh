// SPDX-License-Identifier: Apache-2.0
// What gates channels.
#pragma once

namespace baton {

/// 1 / (1 + exp(-x))
__device__ inline float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + expf(-x));
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
