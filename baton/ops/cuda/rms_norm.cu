// SPDX-License-Identifier: Apache-2.0
// The RMS norm of rows and its gradients. kPacks is 0 for rows that registers do not hold.
#include "baton/ops/cuda/norm_rows.cuh"

namespace baton {

/// Rows of x lie x_stride apart, those of y are dense.
template <typename T, int kPackSize>
struct RmsNorm {
  using Sums = Sum<T>;
  using In = Pack<T, kPackSize>;
  using Out = Pack<T, kPackSize>;
  static constexpr int kPack = kPackSize;

  const T* x;
  T* y;
  long long x_stride;
  long long channels;

  __device__ In load(long long row, int channel) const {
    return load_pack<T, kPack>(x + row * x_stride + channel);
  }
  __device__ void values(const In& in, Sums (&v)[kPack]) const { widen(in, v); }
  __device__ void finish(Out& out, const In& /*in*/, const Sums (&normed)[kPack]) const {
    narrow(normed, out);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out, y + row * channels + channel);
  }
};

/// Rows of dx are dense.
template <typename T, int kPackSize>
struct RmsNormGradients {
  using Sums = Sum<T>;
  using Out = Pack<T, kPackSize>;
  static constexpr int kPack = kPackSize;
  struct In {
    Pack<T, kPack> x;
    Pack<T, kPack> dy;
  };

  const T* dy;
  const T* x;
  T* dx;
  long long dy_stride;
  long long x_stride;
  long long channels;

  __device__ const T* x_at(long long row, int channel) const {
    return x + row * x_stride + channel;
  }
  __device__ const T* dy_at(long long row, int channel) const {
    return dy + row * dy_stride + channel;
  }
  __device__ In load(long long row, int channel) const {
    return {load_pack<T, kPack>(x_at(row, channel)), load_pack<T, kPack>(dy_at(row, channel))};
  }
  __device__ void fetch(long long row, int channel, Word* words, int stride) const {
    copy_async(words, x_at(row, channel), 16);
    copy_async(words + stride, dy_at(row, channel), 16);
  }
  __device__ void values(const In& in, Sums (&v)[kPack]) const { widen(in.x, v); }
  __device__ void incoming(const In& in, Sums (&e)[kPack]) const { widen(in.dy, e); }
  __device__ void finish(
      Out& out,
      const In& /*in*/,
      const Sums (&dvalues)[kPack],
      const Sums (&/*normed*/)[kPack]) const {
    narrow(dvalues, out);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out, dx + row * channels + channel);
  }
};

template <typename T, typename W, int kPack, int kPacks>
__global__ void __launch_bounds__(kMostTeamThreads, kNormTeams<kPack * kPacks * sizeof(T)>)
    rms_norm(
        const T* x,
        const W* weight,
        T* y,
        long long x_stride,
        long long rows,
        int channels,
        double eps) {
  const RmsNorm<T, kPack> op{x, y, x_stride, channels};
  run_norm<kPacks>(op, weight, {rows, 1, channels, eps});
}

/// The weight's gradient of each block goes to its row of partials.
template <typename T, typename W, int kPack, int kPacks>
__global__ void __launch_bounds__(kMostTeamThreads, kTeamsTogether<kPack * kPacks>)
    rms_norm_backward(
        const T* dy,
        const T* x,
        const W* weight,
        T* dx,
        Sum<T>* partials,
        long long dy_stride,
        long long x_stride,
        long long rows,
        int channels,
        double eps) {
  const RmsNormGradients<T, kPack> op{dy, x, dx, dy_stride, x_stride, channels};
  run_norm_gradients<kPacks>(op, weight, partials, {rows, 1, channels, eps});
}

} // namespace baton
