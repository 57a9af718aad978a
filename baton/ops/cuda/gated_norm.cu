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

  __device__ Sum<T> y_at(int j) const { return static_cast<Sum<T>>(y.values[j]); }
  __device__ Sum<T> z_at(int j) const { return static_cast<Sum<T>>(z.values[j]); }
  __device__ Sum<T> gate(int j) const { return z_at(j) * sigmoid(z_at(j)); }
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
  __device__ Sums value(const In& in, int j) const {
    return kGateFirst ? in.y_at(j) * in.gate(j) : in.y_at(j);
  }
  __device__ void set(Out& out, const In& in, int j, Sums normed) const {
    out.values[j] = static_cast<T>(kGateFirst ? normed : normed * in.gate(j));
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

    __device__ Sums dout_at(int j) const { return static_cast<Sums>(dout.values[j]); }
  };

  GatedRows<T> rows;
  const T* dout;
  T* dy;
  T* dz;
  long long dout_stride;

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
  __device__ Sums value(const In& in, int j) const {
    return kGateFirst ? in.gated.y_at(j) * in.gated.gate(j) : in.gated.y_at(j);
  }
  __device__ Sums incoming(const In& in, int j) const {
    return kGateFirst ? in.dout_at(j) : in.dout_at(j) * in.gated.gate(j);
  }
  __device__ void set(Out& out, const In& in, int j, Sums dvalue, Sums normed) const {
    const Sums z = in.gated.z_at(j);
    const Sums s = sigmoid(z);
    const Sums dgate = kGateFirst ? dvalue * in.gated.y_at(j) : in.dout_at(j) * normed;
    out.y.values[j] = static_cast<T>(kGateFirst ? dvalue * (z * s) : dvalue);
    out.z.values[j] = static_cast<T>(dgate * silu_slope(z, s));
  }
  __device__ void store(long long row, int channel, const Out& out) const {
    store_pack(out.y, dy + rows.dense(row, channel));
    store_pack(out.z, dz + rows.dense(row, channel));
  }
};

/// Rows of out are dense.
template <typename T, typename W, int kPack, int kPacks, bool kGateFirst>
__global__ void __launch_bounds__(kMostTeamThreads, 2) gated_norm(
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

/// Rows of dy and dz are dense. The weight's gradient of each block goes to its row of partials.
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
        long long rows,
        int groups,
        int size,
        double eps) {
  const long long channels = static_cast<long long>(groups) * size;
  const GatedNormGradients<T, kPack, kGateFirst> op{
      {y, z, y_stride, z_stride, channels}, dout, dy, dz, dout_stride};
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
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      values[j] = in.y_at(j) * in.gate(j);
    }
    store_pack(rounded<T>(values), out + rows.dense(row, channel));
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

  __device__ In load(long long row, long long channel) const {
    return {
        rows.template load<kPack>(row, channel),
        load_pack<T, kPack>(dout + row * dout_stride + channel)};
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    using S = Sum<T>;
    S of_y[kPack];
    S of_z[kPack];
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const S z = in.gated.z_at(j);
      const S s = sigmoid(z);
      const S gradient = static_cast<S>(in.dout.values[j]);
      of_y[j] = gradient * (z * s);
      of_z[j] = gradient * in.gated.y_at(j) * silu_slope(z, s);
    }
    store_pack(rounded<T>(of_y), dy + rows.dense(row, channel));
    store_pack(rounded<T>(of_z), dz + rows.dense(row, channel));
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
    long long rows,
    long long channels) {
  const GateGradients<T, kPack> op{{y, z, y_stride, z_stride, channels}, dout, dy, dz, dout_stride};
  for_packs<kPack>(op, rows, channels);
}

} // namespace baton
