// SPDX-License-Identifier: Apache-2.0
// The RMS norm of rows and its gradients. Statistics are fp32, or fp64 for fp64.
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/shared_memory.cuh"

namespace baton {

/// One block a row. Rows of x lie x_stride apart, those of y are dense.
template <typename T, typename W, int kPack>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm(const T* x, const W* weight, T* y, long long x_stride, int channels, double eps) {
  using S = Sum<T>;
  const T* x_D = x + blockIdx.x * x_stride;
  T* y_D = y + static_cast<long long>(blockIdx.x) * channels;
  S squares[1] = {0};
  for (int i = threadIdx.x * kPack; i < channels; i += kRowThreads * kPack) {
    const auto in = load_pack<T, kPack>(x_D + i);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const S value = static_cast<S>(in.values[j]);
      squares[0] += value * value;
    }
  }
  block_sums(squares);
  const S inverse = rsqrt(squares[0] / channels + static_cast<S>(eps));
  for (int i = threadIdx.x * kPack; i < channels; i += kRowThreads * kPack) {
    const auto in = load_pack<T, kPack>(x_D + i);
    const auto scale = load_pack<W, kPack>(weight + i);
    Pack<T, kPack> out;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      out.values[j] =
          static_cast<T>(static_cast<S>(in.values[j]) * inverse * static_cast<S>(scale.values[j]));
    }
    store_pack(out, y_D + i);
  }
}

/// One block for rows_per_block rows, whose part of the weight's gradient it keeps in shared memory
/// (channels values) and leaves in its row of partials.
template <typename T, typename W, int kPack>
__global__ void __launch_bounds__(kRowThreads) rms_norm_backward(
    const T* dy,
    const T* x,
    const W* weight,
    T* dx,
    Sum<T>* partials,
    long long dy_stride,
    long long x_stride,
    long long rows,
    long long rows_per_block,
    int channels,
    double eps) {
  using S = Sum<T>;
  S* dweight = reinterpret_cast<S*>(dynamic_shared());
  // A thread meets the same channels in every row, and nobody else does.
  for (int i = threadIdx.x * kPack; i < channels; i += kRowThreads * kPack) {
    for (int j = 0; j < kPack; ++j) {
      dweight[i + j] = 0;
    }
  }
  const long long first = blockIdx.x * rows_per_block;
  const long long end = min(rows, first + rows_per_block);
  for (long long row = first; row < end; ++row) {
    const T* dy_D = dy + row * dy_stride;
    const T* x_D = x + row * x_stride;
    S sums[2] = {0, 0}; // of x x and of x dy weight
    for (int i = threadIdx.x * kPack; i < channels; i += kRowThreads * kPack) {
      const auto in = load_pack<T, kPack>(x_D + i);
      const auto slope = load_pack<T, kPack>(dy_D + i);
      const auto scale = load_pack<W, kPack>(weight + i);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const S value = static_cast<S>(in.values[j]);
        sums[0] += value * value;
        sums[1] += value * static_cast<S>(slope.values[j]) * static_cast<S>(scale.values[j]);
      }
    }
    block_sums(sums);
    const S inverse = rsqrt(sums[0] / channels + static_cast<S>(eps));
    const S along = sums[1] * inverse * inverse * inverse / channels;
    for (int i = threadIdx.x * kPack; i < channels; i += kRowThreads * kPack) {
      const auto in = load_pack<T, kPack>(x_D + i);
      const auto slope = load_pack<T, kPack>(dy_D + i);
      const auto scale = load_pack<W, kPack>(weight + i);
      Pack<T, kPack> out;
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const S value = static_cast<S>(in.values[j]);
        const S gradient = static_cast<S>(slope.values[j]);
        out.values[j] =
            static_cast<T>(gradient * static_cast<S>(scale.values[j]) * inverse - value * along);
        dweight[i + j] += gradient * value * inverse;
      }
      store_pack(out, dx + row * channels + i);
    }
  }
  for (int i = threadIdx.x * kPack; i < channels; i += kRowThreads * kPack) {
    for (int j = 0; j < kPack; ++j) {
      partials[static_cast<long long>(blockIdx.x) * channels + i + j] = dweight[i + j];
    }
  }
}

/// out[channel] = the sum of partials over the blocks. A thread block takes kWarpThreads channels;
/// each of its warps adds up every kWarps-th row, then the warps' sums are added in their order.
template <typename S, typename W>
__global__ void __launch_bounds__(kRowThreads)
    sum_partials(const S* partials, W* out, int blocks, int channels) {
  constexpr int kWarps = kRowThreads / kWarpThreads;
  __shared__ S of_warps[kWarps][kWarpThreads];
  const int warp = threadIdx.x / kWarpThreads;
  const int lane = threadIdx.x % kWarpThreads;
  const int channel = blockIdx.x * kWarpThreads + lane;
  S sum = 0;
  if (channel < channels) {
#pragma unroll 8
    for (int block = warp; block < blocks; block += kWarps) {
      sum += partials[static_cast<long long>(block) * channels + channel];
    }
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && channel < channels) {
    for (int other = 1; other < kWarps; ++other) {
      sum += of_warps[other][lane];
    }
    out[channel] = static_cast<W>(sum);
  }
}

} // namespace baton
