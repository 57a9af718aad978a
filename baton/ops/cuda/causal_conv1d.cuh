// SPDX-License-Identifier: Apache-2.0
// What the kernels of the causal convolution share: parameters, states, and the activation.
#pragma once

#include "baton/ops/cuda/causal_conv1d_arguments.cuh"
#include "baton/ops/cuda/gates.cuh"
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

template <typename Stored, int kPack, int kCount, typename S>
__device__ void read_values(const void* from, long long first, S (&values)[kCount]) {
  static_assert(kCount % kPack == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += kPack) {
    widen(load_pack<Stored, kPack>(static_cast<const Stored*>(from) + first + i), values + i);
  }
}

/// kCount neighbours of a tensor with x's dtype T or fp32, in the type of sums.
template <typename T, int kPack, int kCount>
__device__ void
read_parameter(const void* from, int fp32, long long first, Sum<T> (&values)[kCount]) {
  if (fp32) {
    read_values<float, kPack>(from, first, values);
  } else {
    read_values<T, kPack>(from, first, values);
  }
}

/// One value of such a tensor.
template <typename T>
__device__ Sum<T> read_value(const void* from, int fp32, long long at) {
  return fp32 ? static_cast<Sum<T>>(static_cast<const float*>(from)[at])
              : static_cast<Sum<T>>(static_cast<const T*>(from)[at]);
}

template <typename T>
__device__ void write_value(Sum<T> value, void* to, int fp32, long long at) {
  if (fp32) {
    static_cast<float*>(to)[at] = static_cast<float>(value);
  } else {
    static_cast<T*>(to)[at] = static_cast<T>(value);
  }
}

/// Rows of a tensor at a thread's channels. Strides in bytes and of 32 bits make an address one
/// multiply-add.
template <typename T>
struct Rows {
  T* first;
  int bytes; ///< from a row to the next

  __device__ T* at(int token) const {
    using Byte = unsigned char;
    return reinterpret_cast<T*>(
        const_cast<Byte*>(reinterpret_cast<const Byte*>(first)) +
        static_cast<long long>(token) * bytes);
  }
};

template <typename T>
__device__ Rows<const T> rows_of(const void* data, int stride, int channel) {
  return {static_cast<const T*>(data) + channel, stride * static_cast<int>(sizeof(T))};
}

template <typename T>
__device__ Rows<T> rows_of(void* data, int stride, int channel) {
  return {static_cast<T*>(data) + channel, stride * static_cast<int>(sizeof(T))};
}

/// Weights and bias of kPack channels.
template <typename T, int kPack, int kWidth>
struct ConvFilter {
  Sum<T> weight[kWidth][kPack];
  Sum<T> bias[kPack];

  __device__ ConvFilter(const ConvArguments& given, int channel) {
    Sum<T> values[kPack * kWidth];
    read_parameter<T, kPack>(
        given.weight, given.fp32_weight, static_cast<long long>(channel) * kWidth, values);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        weight[k][j] = values[j * kWidth + k];
      }
    }
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      bias[j] = 0;
    }
    if (given.bias != nullptr) {
      read_parameter<T, kPack>(given.bias, given.fp32_bias, channel, bias);
    }
  }

  /// The sum before the activation, given the inputs that it sees, oldest first.
  __device__ void convolve(const Sum<T> (&inputs)[kWidth][kPack], Sum<T> (&sums)[kPack]) const {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      sums[j] = bias[j];
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        sums[j] += weight[k][j] * inputs[k][j];
      }
    }
  }
};

/// The sequence that token belongs to: the last that starts at or before it.
__device__ inline int sequence_at(const ConvArguments& given, int token) {
  int low = 0;
  int high = given.sequences - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (given.starts[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// The slot that a sequence starts from, or -1.
__device__ inline int slot_of(const ConvArguments& given, int sequence) {
  if (given.states == nullptr) {
    return -1;
  }
  const int slot = given.slots_B == nullptr ? sequence : given.slots_B[sequence];
  return slot < given.slots ? slot : -1;
}

/// Column `column` of the state in `slot`, as stored.
template <typename T>
__device__ Sum<T> stored_input(const ConvArguments& given, int slot, int channel, int column) {
  if (slot < 0) {
    return 0;
  }
  return read_value<T>(
      given.states,
      given.fp32_states,
      slot * given.state_stride + static_cast<long long>(channel) * (given.width - 1) + column);
}

/// Input `offset` (below 0: in the state) of the sequence that begins at `start`, as the
/// convolution sees it: in x's dtype.
template <typename T>
__device__ Sum<T>
input_at(const ConvArguments& given, int start, int slot, int channel, int offset) {
  if (offset < 0) {
    const int column = offset + given.width - 1;
    return static_cast<Sum<T>>(static_cast<T>(stored_input<T>(given, slot, channel, column)));
  }
  return static_cast<Sum<T>>(*rows_of<T>(given.x, given.x_stride, channel).at(start + offset));
}

/// The kWidth - 1 inputs before `token` of a sequence.
template <typename T, int kPack, int kWidth>
__device__ void inputs_before(
    const ConvArguments& given,
    int sequence,
    int token,
    int channel,
    Sum<T> (&inputs)[kWidth][kPack]) {
  const int start = given.starts[sequence];
  const Rows<const T> x = rows_of<T>(given.x, given.x_stride, channel);
  const int slot = token - start < kWidth - 1 ? slot_of(given, sequence) : -1;
#pragma unroll
  for (int k = 0; k < kWidth - 1; ++k) {
    const int offset = token - start - (kWidth - 1) + k;
    if (offset >= 0) {
      widen(load_pack<T, kPack>(x.at(start + offset)), inputs[k]);
    } else {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        inputs[k][j] = input_at<T>(given, start, slot, channel + j, offset);
      }
    }
  }
}

/// Moves the inputs up by one; the newest is kept.
template <typename S, int kPack, int kWidth>
__device__ void shift_inputs(S (&inputs)[kWidth][kPack]) {
#pragma unroll
  for (int k = 0; k + 1 < kWidth; ++k) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      inputs[k][j] = inputs[k + 1][j];
    }
  }
}

} // namespace baton
