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

/// The values of a pack of R, rounded to T.
template <typename T, typename R, int kPack, typename S>
__device__ void widen_as(const Pack<R, kPack>& pack, S (&values)[kPack]) {
  widen(pack, values);
  if constexpr (sizeof(R) != sizeof(T)) {
    Pack<T, kPack> narrower;
    narrow(values, narrower);
    widen(narrower, values);
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
  __device__ Pack<R, kPack> sum_of(const In& in) const {
    Sums total[kPack];
    Sums added[kPack];
    widen(in.residual, total);
    widen(in.update, added);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      total[j] += scale * added[j];
    }
    Pack<R, kPack> sum;
    narrow(total, sum);
    return sum;
  }
  __device__ void values(const In& in, Sums (&v)[kPack]) const {
    widen_as<T>(sum_of(in), v);
  }
  __device__ void finish(Out& out, const In& in, const Sums (&normed)[kPack]) const {
    out.sum = sum_of(in);
    narrow(normed, out.normed);
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
  __device__ void values(const In& in, Sums (&v)[kPack]) const { widen_as<T>(in.sum, v); }
  __device__ void incoming(const In& in, Sums (&e)[kPack]) const { widen(in.dnormed, e); }
  __device__ void
  finish(Out& out, const In& in, Sums (&dvalues)[kPack], const Sums (&/*normed*/)[kPack]) const {
    if (dsum != nullptr) {
      Sums later[kPack];
      widen(in.dsum, later);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        dvalues[j] += later[j];
      }
    }
    narrow(dvalues, out.residual);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      dvalues[j] *= scale;
    }
    narrow(dvalues, out.update);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out.residual, dresidual + row * channels + channel);
    if (dupdate != nullptr) {
      store_pack(out.update, dupdate + row * channels + channel);
    }
  }
};

template <typename T, typename R, typename W, int kPack, int kPacks>
__global__ void __launch_bounds__(
    kMostTeamThreads,
    kNormTeams<kPack * kPacks*(sizeof(R) + sizeof(T))>)
    add_rms_norm(
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
