// SPDX-License-Identifier: Apache-2.0
// Packs of neighbours to and from the type of sums, two bf16 values at a time.
#pragma once

#include "baton/ops/cuda/rows.cuh"

namespace baton {

template <typename T, int kPack, typename S>
__device__ void widen(const Pack<T, kPack>& pack, S* values) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    values[i] = static_cast<S>(pack.values[i]);
  }
}

// A bf16 value is the upper half of the fp32 value.
template <int kPack>
__device__ void widen(const Pack<__nv_bfloat16, kPack>& pack, float* values) {
  if constexpr (kPack % 2 == 0) {
    const unsigned* pairs = reinterpret_cast<const unsigned*>(&pack);
#pragma unroll
    for (int i = 0; i < kPack / 2; ++i) {
      values[2 * i] = __uint_as_float(pairs[i] << 16);
      values[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values[i] = static_cast<float>(pack.values[i]);
    }
  }
}

template <typename T, int kPack, typename S>
__device__ void narrow(const S* values, Pack<T, kPack>& pack) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    pack.values[i] = static_cast<T>(values[i]);
  }
}

template <int kPack>
__device__ void narrow(const float* values, Pack<__nv_bfloat16, kPack>& pack) {
  if constexpr (kPack % 2 == 0) {
    __nv_bfloat162* pairs = reinterpret_cast<__nv_bfloat162*>(&pack);
#pragma unroll
    for (int i = 0; i < kPack / 2; ++i) {
      pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      pack.values[i] = static_cast<__nv_bfloat16>(values[i]);
    }
  }
}

} // namespace baton
