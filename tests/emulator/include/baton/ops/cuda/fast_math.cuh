// SPDX-License-Identifier: Apache-2.0
// The functions of baton/ops/cuda/fast_math.cuh as a CPU has them.
#pragma once

namespace baton {

inline float fast_exp2(float x) {
  return std::exp2(x);
}

inline float fast_reciprocal(float x) {
  return 1.0f / x;
}

} // namespace baton
