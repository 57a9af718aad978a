// SPDX-License-Identifier: Apache-2.0
// What kernels on rows of channels share: one block of threads works on one row at a time.
#pragma once

#include <cuda_bf16.h>

namespace baton {

constexpr int kRowThreads = 256;
constexpr int kWarpThreads = 32;

/// The type in which values of T are added up: fp64 for fp64, otherwise fp32.
template <typename T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};
template <typename T>
using Sum = typename SumOf<T>::Type;

/// kCount neighbours, read and written together.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T values[kCount];
};

template <typename T, int kCount>
__device__ Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <typename T, int kCount>
__device__ void store_pack(const Pack<T, kCount>& pack, T* to) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

/// As values of T.
template <typename T, typename S, int kCount>
__device__ Pack<T, kCount> rounded(const S (&values)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    pack.values[i] = static_cast<T>(values[i]);
  }
  return pack;
}

/// The sums of kCount values over the block, for every thread; added in the same order each time.
/// All threads of the block call it.
template <int kCount, typename S>
__device__ void block_sums(S (&values)[kCount]) {
  constexpr int kWarps = kRowThreads / kWarpThreads;
  __shared__ S of_warps[kCount][kWarps];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    for (int step = kWarpThreads / 2; step > 0; step /= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], step);
    }
  }
  __syncthreads(); // all have read what an earlier call left
  if (threadIdx.x % kWarpThreads == 0) {
    for (int i = 0; i < kCount; ++i) {
      of_warps[i][threadIdx.x / kWarpThreads] = values[i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values[i] = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      values[i] += of_warps[i][warp];
    }
  }
}

} // namespace baton
