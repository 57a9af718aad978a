// SPDX-License-Identifier: Apache-2.0
// The causal convolution of packed sequences. A thread walks along tokens with a few neighbouring
// channels, and keeps the inputs that the next output sees in registers.
#include "baton/ops/cuda/causal_conv1d.cuh"
#include "baton/ops/cuda/launch_overlap.cuh"

namespace baton {

/// Blocks that share a multiprocessor: what the registers of a width allow.
template <typename T, int kWidth>
constexpr int kConvBlocks = kWidth <= 4 ? 5 : (sizeof(T) == 2 ? 4 : 3);

/// Rows that a thread reads ahead of those that it works on, and works on in one go.
template <typename T>
constexpr int kConvAhead = 16 / sizeof(T);

/// kCount rows that a thread has read ahead of those that it works on.
template <typename T, int kPack, int kCount>
struct RowsAhead {
  Rows<const T> from;
  int end; ///< behind it the last row is read again
  Pack<T, kPack> rows[kCount];

  __device__ RowsAhead(const Rows<const T>& from, int token, int end) : from(from), end(end) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      rows[i] = load_pack<T, kPack>(from.at(min(token + i, end - 1)));
    }
  }

  /// The row `token`, in the type of sums; its place takes the row kCount later.
  __device__ void take(int place, int token, Sum<T> (&values)[kPack]) {
    widen(rows[place], values);
    rows[place] = load_pack<T, kPack>(from.at(min(token + kCount, end - 1)));
  }
};

/// Tokens [token, end) of one sequence.
template <typename T, int kPack, int kWidth, bool kSilu>
__device__ void convolve_tokens(
    const ConvArguments& given,
    const ConvFilter<T, kPack, kWidth>& filter,
    void* y,
    int sequence,
    int channel,
    int token,
    int end) {
  RowsAhead<T, kPack, kConvAhead<T>> ahead(
      rows_of<T>(given.x, given.x_stride, channel), token, end);
  const Rows<T> out_rows = rows_of<T>(y, given.channels, channel);
  Sum<T> inputs[kWidth][kPack];
  inputs_before<T>(given, sequence, token, channel, inputs);
  for (; token < end; token += kConvAhead<T>) {
#pragma unroll
    for (int i = 0; i < kConvAhead<T>; ++i) {
      ahead.take(i, token + i, inputs[kWidth - 1]);
      Sum<T> sums[kPack];
      filter.convolve(inputs, sums);
      if constexpr (kSilu) {
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          sums[j] *= sigmoid(sums[j]);
        }
      }
      Pack<T, kPack> out;
      narrow(sums, out);
      if (token + i < end) {
        store_pack(out, out_rows.at(token + i));
      }
      shift_inputs(inputs);
    }
  }
}

/// A thread keeps the last K-1 inputs of one channel of one sequence.
template <typename T, int kWidth>
__device__ void keep_final_state(const ConvArguments& given, void* final_states, int block) {
  const int blocks = (given.channels + kConvThreads - 1) / kConvThreads; // of a sequence
  const int sequence = block / blocks;
  const int channel = block % blocks * kConvThreads + static_cast<int>(threadIdx.x);
  if (channel >= given.channels) {
    return;
  }
  const int start = given.starts[sequence];
  const int length = given.starts[sequence + 1] - start;
  const int slot = length < kWidth - 1 ? slot_of(given, sequence) : -1;
  const long long first =
      (static_cast<long long>(sequence) * given.channels + channel) * (kWidth - 1);
#pragma unroll
  for (int k = 0; k < kWidth - 1; ++k) {
    // A state's column is copied as it is stored, which may be wider than x.
    const int offset = length - (kWidth - 1) + k;
    const Sum<T> value = offset < 0 ? stored_input<T>(given, slot, channel, length + k)
                                    : input_at<T>(given, start, slot, channel, offset);
    write_value<T>(value, final_states, given.fp32_states, first + k);
  }
}

/// Blocks beyond those of the tokens keep final states.
template <typename T, int kPack, int kWidth, bool kSilu>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks<T, kWidth>)
    causal_conv1d(const ConvArguments given, void* y, void* final_states) {
  let_next_begin();
  const int tile = blockIdx.x / given.columns;
  if (tile >= given.tiles) {
    keep_final_state<T, kWidth>(given, final_states, blockIdx.x - given.tiles * given.columns);
    return;
  }
  const int column = blockIdx.x % given.columns;
  const int channel = (column * kConvLanes + static_cast<int>(threadIdx.x) % kConvLanes) * kPack;
  const int first = (tile * kConvRuns + static_cast<int>(threadIdx.x) / kConvLanes) * given.run;
  if (channel >= given.channels || first >= given.tokens) {
    return;
  }
  const int end = min(given.tokens, first + given.run);
  const ConvFilter<T, kPack, kWidth> filter(given, channel);
  int token = first;
  for (int sequence = sequence_at(given, first); token < end && sequence < given.sequences;
       ++sequence) {
    const int last = min(end, given.starts[sequence + 1]);
    if (token < last) {
      convolve_tokens<T, kPack, kWidth, kSilu>(given, filter, y, sequence, channel, token, last);
      token = last;
    }
  }
}

} // namespace baton
