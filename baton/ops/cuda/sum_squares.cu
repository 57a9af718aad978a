// SPDX-License-Identifier: Apache-2.0
// Sums of squares in fp64: blocks of values, then the blocks, both in a fixed order.
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

constexpr int kSquareSums = 4; // of a thread, to have that many packs under way

template <typename T, int kPack>
__device__ double squares_of(const Pack<T, kPack>& pack) {
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const double value = static_cast<double>(static_cast<Sum<T>>(pack.values[i]));
    sum += value * value;
  }
  return sum;
}

/// One block for values_per_block values, a multiple of the packs that its threads take in one
/// round. `count` may end within a pack.
template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads)
    sum_squares(const T* x, double* sums, long long count, long long values_per_block) {
  constexpr long long kRound = static_cast<long long>(kRowThreads) * kPack;
  const long long first = blockIdx.x * values_per_block;
  const long long end = min(count, first + values_per_block);
  const long long whole = first + (end - first) / kPack * kPack;
  double of_thread[kSquareSums] = {};
  long long at = first + threadIdx.x * kPack;
  for (; at + (kSquareSums - 1) * kRound < whole; at += kSquareSums * kRound) {
    Pack<T, kPack> in[kSquareSums];
#pragma unroll
    for (int i = 0; i < kSquareSums; ++i) {
      in[i] = load_pack<T, kPack>(x + at + i * kRound);
    }
#pragma unroll
    for (int i = 0; i < kSquareSums; ++i) {
      of_thread[i] += squares_of(in[i]);
    }
  }
  for (; at < whole; at += kRound) {
    of_thread[0] += squares_of(load_pack<T, kPack>(x + at));
  }
  if (whole + threadIdx.x < end) {
    of_thread[1] += squares_of(load_pack<T, 1>(x + whole + threadIdx.x));
  }
  double sum[1] = {(of_thread[0] + of_thread[1]) + (of_thread[2] + of_thread[3])};
  block_sums(sum);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum[0];
  }
}

/// One block.
template <typename S>
__global__ void __launch_bounds__(kRowThreads) sum_blocks(const S* sums, S* out, int blocks) {
  S sum[1] = {0};
#pragma unroll 4
  for (int block = threadIdx.x; block < blocks; block += kRowThreads) {
    sum[0] += sums[block];
  }
  block_sums(sum);
  if (threadIdx.x == 0) {
    out[0] = sum[0];
  }
}

} // namespace baton
