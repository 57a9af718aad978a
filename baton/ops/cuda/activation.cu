// SPDX-License-Identifier: Apache-2.0
// Nonlinearities of the MLP layers and their gradients. Rows of inputs lie apart, those of outputs
// are dense.
#include "baton/ops/cuda/gates.cuh"
#include "baton/ops/cuda/pack_loop.cuh"

namespace baton {

/// max(x, 0), which keeps a NaN.
template <typename S>
__device__ S positive_part(S x) {
  return x < 0 ? static_cast<S>(0) : x;
}

template <typename T, int kPack>
struct SquaredRelu {
  using In = Pack<T, kPack>;

  const T* x;
  T* y;
  long long x_stride;
  long long channels;

  __device__ In load(long long row, long long channel) const {
    return load_pack<T, kPack>(x + row * x_stride + channel);
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    Pack<T, kPack> out;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Sum<T> positive = positive_part(static_cast<Sum<T>>(in.values[j]));
      out.values[j] = static_cast<T>(positive * positive);
    }
    store_pack(out, y + row * channels + channel);
  }
};

template <typename T, int kPack>
struct SquaredReluGradients {
  struct In {
    Pack<T, kPack> dy;
    Pack<T, kPack> x;
  };

  const T* dy;
  const T* x;
  T* dx;
  long long dy_stride;
  long long x_stride;
  long long channels;

  __device__ In load(long long row, long long channel) const {
    return {
        load_pack<T, kPack>(dy + row * dy_stride + channel),
        load_pack<T, kPack>(x + row * x_stride + channel)};
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    Pack<T, kPack> out;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Sum<T> positive = positive_part(static_cast<Sum<T>>(in.x.values[j]));
      out.values[j] = static_cast<T>(static_cast<Sum<T>>(in.dy.values[j]) * (positive + positive));
    }
    store_pack(out, dx + row * channels + channel);
  }
};

/// `channels` of the gate lie before as many that it opens.
template <typename T, int kPack>
struct Swiglu {
  struct In {
    Pack<T, kPack> gate;
    Pack<T, kPack> up;
  };

  const T* x;
  T* y;
  long long x_stride;
  long long channels;

  __device__ In load(long long row, long long channel) const {
    const T* gate = x + row * x_stride + channel;
    return {load_pack<T, kPack>(gate), load_pack<T, kPack>(gate + channels)};
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    Pack<T, kPack> out;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Sum<T> gate = static_cast<Sum<T>>(in.gate.values[j]);
      out.values[j] = static_cast<T>(gate * sigmoid(gate) * static_cast<Sum<T>>(in.up.values[j]));
    }
    store_pack(out, y + row * channels + channel);
  }
};

template <typename T, int kPack>
struct SwigluGradients {
  struct In {
    Pack<T, kPack> dy;
    Pack<T, kPack> gate;
    Pack<T, kPack> up;
  };

  const T* dy;
  const T* x;
  T* dx;
  long long dy_stride;
  long long x_stride;
  long long channels;

  __device__ In load(long long row, long long channel) const {
    const T* gate = x + row * x_stride + channel;
    return {
        load_pack<T, kPack>(dy + row * dy_stride + channel),
        load_pack<T, kPack>(gate),
        load_pack<T, kPack>(gate + channels)};
  }
  __device__ void store(long long row, long long channel, const In& in) const {
    using S = Sum<T>;
    Pack<T, kPack> of_gate;
    Pack<T, kPack> of_up;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const S gradient = static_cast<S>(in.dy.values[j]);
      const S gate = static_cast<S>(in.gate.values[j]);
      const S s = sigmoid(gate);
      of_gate.values[j] =
          static_cast<T>(gradient * static_cast<S>(in.up.values[j]) * silu_slope(gate, s));
      of_up.values[j] = static_cast<T>(gradient * (gate * s));
    }
    T* to = dx + 2 * row * channels + channel;
    store_pack(of_gate, to);
    store_pack(of_up, to + channels);
  }
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads, 3)
    squared_relu(const T* x, T* y, long long x_stride, long long rows, long long channels) {
  const SquaredRelu<T, kPack> op{x, y, x_stride, channels};
  for_packs<kPack>(op, rows, channels);
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads, 3) squared_relu_backward(
    const T* dy,
    const T* x,
    T* dx,
    long long dy_stride,
    long long x_stride,
    long long rows,
    long long channels) {
  const SquaredReluGradients<T, kPack> op{dy, x, dx, dy_stride, x_stride, channels};
  for_packs<kPack>(op, rows, channels);
}

/// `channels` are those of y.
template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads, 3)
    swiglu(const T* x, T* y, long long x_stride, long long rows, long long channels) {
  const Swiglu<T, kPack> op{x, y, x_stride, channels};
  for_packs<kPack>(op, rows, channels);
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads, 3) swiglu_backward(
    const T* dy,
    const T* x,
    T* dx,
    long long dy_stride,
    long long x_stride,
    long long rows,
    long long channels) {
  const SwigluGradients<T, kPack> op{dy, x, dx, dy_stride, x_stride, channels};
  for_packs<kPack>(op, rows, channels);
}

} // namespace baton
