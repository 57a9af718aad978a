// SPDX-License-Identifier: Apache-2.0
// Sums of what the blocks of a gradient left.
#include "baton/ops/cuda/launch_overlap.cuh"
#include "baton/ops/cuda/norm_teams.cuh"
#include "baton/ops/cuda/rows.cuh"

namespace baton {

/// out[channel] = the sum of partials over the blocks. A thread block takes kWarpThreads channels;
/// each of its warps adds up every kSumWarps-th row, then the warps' sums are added in their order.
template <typename S, typename W>
__global__ void __launch_bounds__(kSumWarps* kWarpThreads)
    sum_partials(const S* partials, W* out, int blocks, int channels) {
  __shared__ S of_warps[kSumWarps][kWarpThreads];
  const int warp = threadIdx.x / kWarpThreads;
  const int lane = threadIdx.x % kWarpThreads;
  const int channel = blockIdx.x * kWarpThreads + lane;
  S sum = 0;
  wait_for_launch_before(); // of what left the partials
  if (channel < channels) {
#pragma unroll 8
    for (int block = warp; block < blocks; block += kSumWarps) {
      sum += partials[static_cast<long long>(block) * channels + channel];
    }
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && channel < channels) {
    for (int other = 1; other < kSumWarps; ++other) {
      sum += of_warps[other][lane];
    }
    out[channel] = static_cast<W>(sum);
  }
}

} // namespace baton
