// SPDX-License-Identifier: Apache-2.0
// One token of each sequence, with the state moved up by it.
#include "baton/ops/cuda/causal_conv1d.cuh"
#include "baton/ops/cuda/launch_overlap.cuh"

namespace baton {

template <typename T, int kPack, int kCount>
__device__ void write_states(const Sum<T> (&values)[kCount], void* to, int fp32, long long first) {
#pragma unroll
  for (int i = 0; i < kCount; i += kPack) {
    if (fp32) {
      Pack<float, kPack> out;
      narrow(values + i, out);
      store_pack(out, static_cast<float*>(to) + first + i);
    } else {
      Pack<T, kPack> out;
      narrow(values + i, out);
      store_pack(out, static_cast<T*>(to) + first + i);
    }
  }
}

/// Reads the inputs before a token, as the convolution sees them, and stores them moved up by the
/// token's own, which is inputs[kWidth - 1]. What is moved keeps all bits that it was stored with.
template <typename T, int kPack, int kWidth>
__device__ void advance_state(
    const ConvArguments& given,
    void* states,
    int slot,
    int channel,
    Sum<T> (&inputs)[kWidth][kPack]) {
  constexpr int kBefore = kWidth - 1;
  Sum<T> stored[kPack * kBefore] = {};
  const long long first = slot * given.state_stride + static_cast<long long>(channel) * kBefore;
  if (slot >= 0) {
    read_parameter<T, kPack>(states, given.fp32_states, first, stored);
  }
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
#pragma unroll
    for (int k = 0; k < kBefore; ++k) {
      Sum<T>& value = stored[j * kBefore + k];
      inputs[k][j] = static_cast<Sum<T>>(static_cast<T>(value));
      value = k + 1 < kBefore ? stored[j * kBefore + k + 1] : inputs[kBefore][j];
    }
  }
  if (slot >= 0) {
    write_states<T, kPack>(stored, states, given.fp32_states, first);
  }
}

/// A thread takes kPack channels of one sequence. Launched to overlap, as short as it is.
template <typename T, int kPack, int kWidth>
__global__ void __launch_bounds__(kConvStepThreads, 8)
    causal_conv1d_step(const ConvArguments given, void* states, void* y) {
  let_next_begin();
  wait_for_launch_before();
  const int sequence = blockIdx.x / given.columns;
  const int place = blockIdx.x % given.columns * kConvStepThreads + threadIdx.x;
  const int channel = place * kPack;
  if (channel >= given.channels) {
    return;
  }
  const int slot = given.slots_B[sequence];
  const ConvFilter<T, kPack, kWidth> filter(given, channel);
  Sum<T> inputs[kWidth][kPack];
  widen(
      load_pack<T, kPack>(rows_of<T>(given.x, given.x_stride, channel).at(sequence)),
      inputs[kWidth - 1]);
  if constexpr (kWidth > 1) {
    advance_state<T, kPack, kWidth>(given, states, slot < given.slots ? slot : -1, channel, inputs);
  }
  Sum<T> sums[kPack];
  filter.convolve(inputs, sums);
  if (given.silu) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      sums[j] *= sigmoid(sums[j]);
    }
  }
  Pack<T, kPack> out;
  narrow(sums, out);
  store_pack(out, rows_of<T>(y, given.channels, channel).at(sequence));
}

} // namespace baton
