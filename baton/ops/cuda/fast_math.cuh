// SPDX-License-Identifier: Apache-2.0
// Functions of fp32 numbers that take one instruction, right to two units in the last place.
// Numbers below the normal ones are zero to them.
#pragma once

namespace baton {

__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

} // namespace baton
