// SPDX-License-Identifier: Apache-2.0
// The gate and grouped RMS norm behind a Mamba-2 scan, and their gradients. kPacks is 0 for groups
// that registers do not hold.
#include "baton/ops/cuda/gates.cuh"
#include "baton/ops/cuda/norm_rows.cuh"
#include "baton/ops/cuda/pack_loop.cuh"

namespace baton {

/// The part of y and z that a thread reads at once.
template <typename T, int kPack>
struct GatedPack {
  Pack<T, kPack> y;
  Pack<T, kPack> z;

  /// values <- values silu(z)
  __device__ void gate(Sum<T> (&values)[kPack]) const {
    Sum<T> of_z[kPack];
    widen(z, of_z);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      values[j] *= of_z[j] * sigmoid(of_z[j]);
    }
  }
};

/// Rows of y and z, which lie apart, and where one of dense rows begins.
template <typename T>
struct GatedRows {
  const T* y;
  const T* z;
  long long y_stride;
  long long z_stride;
  long long channels;

  __device__ const T* y_at(long long row, long long channel) const {
    return y + row * y_stride + channel;
  }
  __device__ const T* z_at(long long row, long long channel) const {
    return z + row * z_stride + channel;
  }

  template <int kPack>
  __device__ GatedPack<T, kPack> load(long long row, long long channel) const {
    return {load_pack<T, kPack>(y_at(row, channel)), load_pack<T, kPack>(z_at(row, channel))};
  }
  __device__ long long dense(long long row, long long channel) const {
    return row * channels + channel;
  }
};

template <typename T, int kPackSize, bool kGateFirst>
struct GatedNorm {
  using Sums = Sum<T>;
  using In = GatedPack<T, kPackSize>;
  using Out = Pack<T, kPackSize>;
  static constexpr int kPack = kPackSize;

  GatedRows<T> rows;
  T* out;

  __device__ In load(long long row, int channel) const {
    return rows.template load<kPack>(row, channel);
  }
  __device__ void values(const In& in, Sums (&v)[kPack]) const {
    widen(in.y, v);
    if constexpr (kGateFirst) {
      in.gate(v);
    }
  }
  __device__ void finish(Out& out, const In& in, Sums (&normed)[kPack]) const {
    if constexpr (!kGateFirst) {
      in.gate(normed);
    }
    narrow(normed, out);
  }
  __device__ void store(long long row, int channel, const Out& values) const {
    store_pack(values, out + rows.dense(row, channel));
  }
};

/// The gradients of y and z of a pack.
template <typename T, int kPack>
struct GatedGradients {
  Pack<T, kPack> y;
  Pack<T, kPack> z;
};

template <typename T, int kPackSize, bool kGateFirst>
struct GatedNormGradients {
  using Sums = Sum<T>;
  using Out = GatedGradients<T, kPackSize>;
  static constexpr int kPack = kPackSize;
  struct In {
    GatedPack<T, kPack> gated;
    Pack<T, kPack> dout;
  };

  GatedRows<T> rows;
  const T* dout;
  T* dy;
  T* dz;
  long long dout_stride;
  long long dz_stride;

  __device__ In load(long long row, int channel) const {
    return {
        rows.template load<kPack>(row, channel),
        load_pack<T, kPack>(dout + row * dout_stride + channel)};
  }
  __device__ void fetch(long long row, int channel, Word* words, int stride) const {
    copy_async(words, rows.y_at(row, channel), 16);
    copy_async(words + stride, rows.z_at(row, channel), 16);
    copy_async(words + 2 * stride, dout + row * dout_stride + channel, 16);
  }
  __device__ void values(const In& in, Sums (&v)[kPack]) const {
    widen(in.gated.y, v);
    if constexpr (kGateFirst) {
      in.gated.gate(v);
    }
  }
  __device__ void incoming(const In& in, Sums (&e)[kPack]) const {
    widen(in.dout, e);
    if constexpr (!kGateFirst) {
      in.gated.gate(e);
    }
  }
  __device__ void
  finish(Out& out, const In& in, Sums (&dvalues)[kPack], const Sums (&normed)[kPack]) const {
    Sums z[kPack];
    Sums dz[kPack]; // first what silu(z) is multiplied by
    widen(in.gated.z, z);
    widen(kGateFirst ? in.gated.y : in.dout, dz);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Sums s = sigmoid(z[j]);
      dz[j] *= (kGateFirst ? dvalues[j] : normed[j]) * silu_slope(z[j], s);
      if constexpr (kGateFirst) {
        dvalues[j] *= z[j] * s;
      }
    }
    narrow(dvalues, out.y);
    narrow(dz, out.z);
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out.y, dy + rows.dense(row, channel));
    store_pack(out.z, dz + row * dz_stride + channel);
  }
};

/// Rows of out are dense.
template <typename T, typename W, int kPack, int kPacks, bool kGateFirst>
__global__ void __launch_bounds__(kMostTeamThreads, kNormTeams<2 * kPack * kPacks * sizeof(T)>)
    gated_norm(
        const T* y,
        const T* z,
        const W* weight,
        T* out,
        long long y_stride,
        long long z_stride,
        long long rows,
        int groups,
        int size,
        double eps) {
  const long long channels = static_cast<long long>(groups) * size;
  const GatedNorm<T, kPack, kGateFirst> op{{y, z, y_stride, z_stride, channels}, out};
  run_norm<kPacks>(op, weight, {rows, groups, size, eps});
}

/// Rows of dy are dense. The weight's gradient of each block goes to its row of partials.
template <typename T, typename W, int kPack, int kPacks, bool kGateFirst>
__global__ void __launch_bounds__(kMostTeamThreads, kTeamsTogether<kPack * kPacks>)
    gated_norm_backward(
        const T* dout,
        const T* y,
        const T* z,
        const W* weight,
        T* dy,
        T* dz,
        Sum<T>* partials,
        long long dout_stride,
        long long y_stride,
        long long z_stride,
        long long dz_stride,
        long long rows,
        int groups,
        int size,
        double eps) {
  const long long channels = static_cast<long long>(groups) * size;
  const GatedNormGradients<T, kPack, kGateFirst> op{
      {y, z, y_stride, z_stride, channels}, dout, dy, dz, dout_stride, dz_stride};
  run_norm_gradients<kPacks>(op, weight, partials, {rows, groups, size, eps});
}

/// y silu(z), for no norm.
template <typename T, int kPack>
struct Gate {
  using In = GatedPack<T, kPack>;

  GatedRows<T> rows;
  T* out;

  __device__ In load(long long row, long long channel) const {
    return rows.template load<kPack>(row, channel);
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    Sum<T> values[kPack];
    widen(in.y, values);
    in.gate(values);
    Pack<T, kPack> gated;
    narrow(values, gated);
    store_pack(gated, out + rows.dense(row, channel));
  }
};

template <typename T, int kPack>
struct GateGradients {
  struct In {
    GatedPack<T, kPack> gated;
    Pack<T, kPack> dout;
  };

  GatedRows<T> rows;
  const T* dout;
  T* dy;
  T* dz;
  long long dout_stride;
  long long dz_stride;

  __device__ In load(long long row, long long channel) const {
    return {
        rows.template load<kPack>(row, channel),
        load_pack<T, kPack>(dout + row * dout_stride + channel)};
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    Sum<T> z[kPack];
    Sum<T> of_y[kPack]; // first the gradient that comes in
    Sum<T> of_z[kPack]; // first y
    widen(in.gated.z, z);
    widen(in.dout, of_y);
    widen(in.gated.y, of_z);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Sum<T> s = sigmoid(z[j]);
      of_z[j] *= of_y[j] * silu_slope(z[j], s);
      of_y[j] *= z[j] * s;
    }
    GatedGradients<T, kPack> out;
    narrow(of_y, out.y);
    narrow(of_z, out.z);
    store_pack(out.y, dy + rows.dense(row, channel));
    store_pack(out.z, dz + row * dz_stride + channel);
  }
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads, 3) gate(
    const T* y,
    const T* z,
    T* out,
    long long y_stride,
    long long z_stride,
    long long rows,
    long long channels) {
  const Gate<T, kPack> op{{y, z, y_stride, z_stride, channels}, out};
  for_packs<kPack>(op, rows, channels);
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads, 3) gate_backward(
    const T* dout,
    const T* y,
    const T* z,
    T* dy,
    T* dz,
    long long dout_stride,
    long long y_stride,
    long long z_stride,
    long long dz_stride,
    long long rows,
    long long channels) {
  const GateGradients<T, kPack> op{
      {y, z, y_stride, z_stride, channels}, dout, dy, dz, dout_stride, dz_stride};
  for_packs<kPack>(op, rows, channels);
}

} // namespace baton
