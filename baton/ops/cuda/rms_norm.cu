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
  __device__ Sums value(const In& in, int j) const { return static_cast<Sums>(in.values[j]); }
  __device__ void set(Out& out, const In& /*in*/, int j, Sums normed) const {
    out.values[j] = static_cast<T>(normed);
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
  __device__ Sums value(const In& in, int j) const { return static_cast<Sums>(in.x.values[j]); }
  __device__ Sums incoming(const In& in, int j) const { return static_cast<Sums>(in.dy.values[j]); }
  __device__ void set(Out& out, const In& /*in*/, int j, Sums dvalue, Sums /*normed*/) const {
    out.values[j] = static_cast<T>(dvalue);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out, dx + row * channels + channel);
  }
};

template <typename T, typename W, int kPack, int kPacks>
__global__ void __launch_bounds__(kMostTeamThreads, 2) rms_norm(
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
