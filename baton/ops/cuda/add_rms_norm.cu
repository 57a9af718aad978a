// SPDX-License-Identifier: Apache-2.0
// Addition to the residual stream, and the RMS norm of the sum, with their gradients. kPacks is 0
// for rows that registers do not hold.
#include "baton/ops/cuda/norm_rows.cuh"

namespace baton {

/// Copies a pack to shared memory word by word.
template <typename T, int kPack>
__device__ void fetch_pack(const T* from, Word* words, int stride) {
  constexpr int kValues = sizeof(Word) / sizeof(T);
#pragma unroll
  for (int w = 0; w < kPack / kValues; ++w) {
    copy_async(words + w * stride, from + w * kValues, sizeof(Word));
  }
}

/// The stream is of type R, what is added to it and its norm of type T. Rows of the inputs lie
/// apart, those of the outputs are dense.
template <typename T, typename R, int kPackSize>
struct AddRmsNorm {
  using Sums = Sum<T>;
  static constexpr int kPack = kPackSize;
  struct In {
    Pack<R, kPack> residual;
    Pack<T, kPack> update;
  };
  struct Out {
    Pack<R, kPack> sum;
    Pack<T, kPack> normed;
  };

  const R* residual;
  const T* update;
  R* sum;
  T* normed;
  long long residual_stride;
  long long update_stride;
  long long channels;
  Sums scale;

  __device__ In load(long long row, int channel) const {
    return {
        load_pack<R, kPack>(residual + row * residual_stride + channel),
        load_pack<T, kPack>(update + row * update_stride + channel)};
  }
  __device__ R sum_at(const In& in, int j) const {
    return static_cast<R>(
        static_cast<Sums>(in.residual.values[j]) + scale * static_cast<Sums>(in.update.values[j]));
  }
  __device__ Sums value(const In& in, int j) const {
    return static_cast<Sums>(static_cast<T>(sum_at(in, j)));
  }
  __device__ void set(Out& out, const In& in, int j, Sums value) const {
    out.sum.values[j] = sum_at(in, j);
    out.normed.values[j] = static_cast<T>(value);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out.sum, sum + row * channels + channel);
    store_pack(out.normed, normed + row * channels + channel);
  }
};

/// No dsum means zeros; dupdate is not written where it is null.
template <typename T, typename R, int kPackSize>
struct AddRmsNormGradients {
  using Sums = Sum<T>;
  static constexpr int kPack = kPackSize;
  struct In {
    Pack<R, kPack> sum;
    Pack<R, kPack> dsum;
    Pack<T, kPack> dnormed;
  };
  struct Out {
    Pack<R, kPack> residual;
    Pack<T, kPack> update;
  };

  const R* dsum;
  const T* dnormed;
  const R* sum;
  R* dresidual;
  T* dupdate;
  long long dsum_stride;
  long long dnormed_stride;
  long long sum_stride;
  long long channels;
  Sums scale;

  __device__ In load(long long row, int channel) const {
    In in = {};
    in.sum = load_pack<R, kPack>(sum + row * sum_stride + channel);
    in.dnormed = load_pack<T, kPack>(dnormed + row * dnormed_stride + channel);
    if (dsum != nullptr) {
      in.dsum = load_pack<R, kPack>(dsum + row * dsum_stride + channel);
    }
    return in;
  }
  __device__ void fetch(long long row, int channel, Word* words, int stride) const {
    constexpr int kWords = sizeof(Pack<R, kPack>) / sizeof(Word);
    fetch_pack<R, kPack>(sum + row * sum_stride + channel, words, stride);
    if (dsum != nullptr) {
      fetch_pack<R, kPack>(dsum + row * dsum_stride + channel, words + kWords * stride, stride);
    }
    fetch_pack<T, kPack>(
        dnormed + row * dnormed_stride + channel, words + 2 * kWords * stride, stride);
  }
  __device__ Sums value(const In& in, int j) const {
    return static_cast<Sums>(static_cast<T>(in.sum.values[j]));
  }
  __device__ Sums incoming(const In& in, int j) const {
    return static_cast<Sums>(in.dnormed.values[j]);
  }
  __device__ void set(Out& out, const In& in, int j, Sums dvalue, Sums /*normed*/) const {
    const Sums total = dsum == nullptr ? dvalue : dvalue + static_cast<Sums>(in.dsum.values[j]);
    out.residual.values[j] = static_cast<R>(total);
    out.update.values[j] = static_cast<T>(scale * total);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out.residual, dresidual + row * channels + channel);
    if (dupdate != nullptr) {
      store_pack(out.update, dupdate + row * channels + channel);
    }
  }
};

template <typename T, typename R, typename W, int kPack, int kPacks>
__global__ void __launch_bounds__(kMostTeamThreads, 2) add_rms_norm(
    const R* residual,
    const T* update,
    const W* weight,
    R* sum,
    T* normed,
    long long residual_stride,
    long long update_stride,
    long long rows,
    int channels,
    double scale,
    double eps) {
  const AddRmsNorm<T, R, kPack> op{
      residual,
      update,
      sum,
      normed,
      residual_stride,
      update_stride,
      channels,
      static_cast<Sum<T>>(scale)};
  run_norm<kPacks>(op, weight, {rows, 1, channels, eps});
}

/// Rows of the outputs are dense. The weight's gradient of each block goes to its row of partials.
template <typename T, typename R, typename W, int kPack, int kPacks>
__global__ void __launch_bounds__(kMostTeamThreads, kTeamsTogether<kPack * kPacks>)
    add_rms_norm_backward(
        const R* dsum,
        const T* dnormed,
        const R* sum,
        const W* weight,
        R* dresidual,
        T* dupdate,
        Sum<T>* partials,
        long long dsum_stride,
        long long dnormed_stride,
        long long sum_stride,
        long long rows,
        int channels,
        double scale,
        double eps) {
  const AddRmsNormGradients<T, R, kPack> op{
      dsum,
      dnormed,
      sum,
      dresidual,
      dupdate,
      dsum_stride,
      dnormed_stride,
      sum_stride,
      channels,
      static_cast<Sum<T>>(scale)};
  run_norm_gradients<kPacks>(op, weight, partials, {rows, 1, channels, eps});
}

} // namespace baton
