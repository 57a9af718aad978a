// SPDX-License-Identifier: Apache-2.0
// Gradients of the causal convolution. A thread walks along tokens with a few neighbouring
// channels: it recomputes the sums before the activation, and keeps the inputs that they see and
// the input gradients that are not yet complete in registers.
#include "baton/ops/cuda/causal_conv1d.cuh"
#include "baton/ops/cuda/mma.cuh"

namespace baton {

/// Blocks that share a multiprocessor: what the registers of a width allow.
template <typename T, int kWidth>
constexpr int kConvGradientBlocks = kWidth <= 4 ? 4 : 2;

/// Rows that a thread works on in one go, and how many times as many are on their way or at hand.
template <typename T>
constexpr int kConvGradientRows = 8 / sizeof(T);
constexpr int kConvGradientStages = 3;

/// A thread's channels of rows on their way through shared memory: registers are for gradients.
template <typename T, int kPack>
struct RowsOnTheWay {
  static constexpr int kRows = kConvGradientRows<T>;
  static constexpr int kPlaces = kConvGradientStages * kRows;

  Rows<const T> from;
  int end;              ///< behind it the last row is read again
  Pack<T, kPack>* mine; ///< of kPlaces, kConvThreads apart

  /// Starts copies of the kRows rows from `token` on.
  __device__ void fetch(int stage, int token) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      Pack<T, kPack>* to = mine + (stage * kRows + i) * kConvThreads;
      const T* row = from.at(min(token + i, end - 1));
      if constexpr (sizeof(Pack<T, kPack>) >= 4) {
        copy_bytes_async<sizeof(Pack<T, kPack>)>(to, row);
      } else {
        *to = load_pack<T, kPack>(row);
      }
    }
  }

  /// Row i of a stage in the type of sums.
  __device__ void take(int stage, int i, Sum<T> (&values)[kPack]) const {
    widen(mine[(stage * kRows + i) * kConvThreads], values);
  }
};

/// Of kPack channels; row kWidth is the bias's.
template <typename T, int kPack, int kWidth>
struct ParameterGradients {
  Sum<T> sums[kWidth + 1][kPack] = {};

  __device__ void
  add(const Sum<T> (&dz)[kPack], const Sum<T> (&inputs)[kWidth][kPack], bool counts) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Sum<T> slope = counts ? dz[j] : Sum<T>(0);
      sums[kWidth][j] += slope;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        sums[k][j] += slope * inputs[k][j];
      }
    }
  }
};

/// Gradients of the last kWidth - 1 inputs, from the outputs so far; the oldest first.
template <typename T, int kPack, int kWidth>
struct PendingGradients {
  Sum<T> inputs[kWidth][kPack] = {}; // the last row is always 0

  /// Adds an output's gradient, and gives the gradient of the oldest input that it sees, which no
  /// later output does.
  __device__ void add(
      const ConvFilter<T, kPack, kWidth>& filter,
      const Sum<T> (&dz)[kPack],
      Sum<T> (&complete)[kPack]) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      complete[j] = inputs[0][j] + filter.weight[0][j] * dz[j];
#pragma unroll
      for (int k = 1; k < kWidth; ++k) {
        inputs[k - 1][j] = inputs[k][j] + filter.weight[k][j] * dz[j];
      }
    }
  }
};

/// Adds what the final state's gradient has for the input `token`, if it holds that input.
template <typename T, int kPack, int kWidth>
__device__ void add_final_state(
    const ConvArguments& given,
    const ConvGradientArguments& gradient,
    int sequence,
    int channel,
    int token,
    Sum<T> (&values)[kPack]) {
  const int column = token - given.starts[sequence + 1] + kWidth - 1;
  if (gradient.dfinal_states == nullptr || column < 0 || column >= kWidth - 1) {
    return;
  }
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const long long row = static_cast<long long>(sequence) * given.channels + channel + j;
    values[j] += read_value<T>(
        gradient.dfinal_states, gradient.fp32_dfinal_states, row * (kWidth - 1) + column);
  }
}

/// A thread's walk along tokens [begin, end) of one sequence.
template <typename T, int kPack, int kWidth, bool kSilu>
struct BackwardWalk {
  static constexpr int kBefore = kWidth - 1;
  static constexpr int kRows = kConvGradientRows<T>;

  const ConvArguments& given;
  const ConvGradientArguments& gradient;
  const ConvFilter<T, kPack, kWidth>& filter;
  ParameterGradients<T, kPack, kWidth>& parameters;
  int sequence;
  int channel;
  int begin;
  int end;
  int seen; ///< end of the outputs that see these tokens
  RowsOnTheWay<T, kPack> x;
  RowsOnTheWay<T, kPack> dy;
  Rows<T> dx;
  int stage = 0;
  Sum<T> inputs[kWidth][kPack] = {};
  PendingGradients<T, kPack, kWidth> pending = {};

  __device__ void fetch(int to_stage, int token) const {
    x.fetch(to_stage, token);
    dy.fetch(to_stage, token);
    commit_copies();
  }

  /// Starts the copies of the first rows.
  __device__ void begin_copies() const {
#pragma unroll
    for (int i = 0; i + 1 < kConvGradientStages; ++i) {
      fetch(i, begin + i * kRows);
    }
  }

  /// kRows outputs from `token` on. kInside: all of them are the walk's own. Others belong to
  /// another walk, or lie behind the sequence's end, where inputs are left whose gradients become
  /// complete.
  template <bool kInside>
  __device__ void step(int token) {
    constexpr int kLater = kConvGradientStages - 1;
    fetch(stage == 0 ? kLater : stage - 1, token + kLater * kRows);
    wait_for_copies<kLater>();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int now = token + i;
      Sum<T> dz[kPack];
      x.take(stage, i, inputs[kWidth - 1]);
      dy.take(stage, i, dz);
      if constexpr (kSilu) {
        Sum<T> sums[kPack];
        filter.convolve(inputs, sums);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          dz[j] *= silu_slope(sums[j], sigmoid(sums[j]));
        }
      }
      if constexpr (!kInside) {
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          dz[j] = now < seen ? dz[j] : Sum<T>(0);
        }
      }
      parameters.add(dz, inputs, kInside || now < end);
      Sum<T> complete[kPack];
      pending.add(filter, dz, complete);
      store<kInside>(now - kBefore, complete);
      shift_inputs(inputs);
    }
    stage = stage == kLater ? 0 : stage + 1;
  }

  /// A final state holds no input whose outputs are all the walk's own.
  template <bool kInside>
  __device__ void store(int token, Sum<T> (&values)[kPack]) {
    if (token < begin || (!kInside && token >= end)) {
      return;
    }
    if constexpr (!kInside) {
      add_final_state<T, kPack, kWidth>(given, gradient, sequence, channel, token, values);
    }
    Pack<T, kPack> out;
    narrow(values, out);
    store_pack(out, dx.at(token));
  }
};

template <typename T, int kPack, int kWidth, bool kSilu>
__device__ void walk_back(
    const ConvArguments& given,
    const ConvGradientArguments& gradient,
    const ConvFilter<T, kPack, kWidth>& filter,
    ParameterGradients<T, kPack, kWidth>& parameters,
    int sequence,
    int channel,
    int begin,
    int end,
    Pack<T, kPack>* places) {
  using Walk = BackwardWalk<T, kPack, kWidth, kSilu>;
  const int seen = min(end + Walk::kBefore, given.starts[sequence + 1]);
  Walk walk{
      given,
      gradient,
      filter,
      parameters,
      sequence,
      channel,
      begin,
      end,
      seen,
      {rows_of<T>(given.x, given.x_stride, channel), seen, places},
      {rows_of<T>(gradient.dy, gradient.dy_stride, channel),
       seen,
       places + RowsOnTheWay<T, kPack>::kPlaces * kConvThreads},
      rows_of<T>(gradient.dx, gradient.dx_stride, channel)};
  walk.begin_copies();
  inputs_before<T>(given, sequence, begin, channel, walk.inputs);
  int token = begin;
  for (; token + Walk::kRows <= end; token += Walk::kRows) {
    walk.template step<true>(token);
  }
  for (; token < end + Walk::kBefore; token += Walk::kRows) {
    walk.template step<false>(token);
  }
  wait_for_copies<0>(); // before the next walk has its own
}

/// A block leaves the gradients of the parameters, summed over its tile, in its row of partials.
template <typename T, int kPack, int kWidth, bool kSilu>
__global__ void __launch_bounds__(kConvThreads, kConvGradientBlocks<T, kWidth>)
    causal_conv1d_backward(const ConvArguments given, const ConvGradientArguments gradient) {
  constexpr int kChannels = kConvLanes * kPack; // of a block
  __shared__ Sum<T> of_runs[kConvRuns][kWidth + 1][kChannels];
  __shared__ Pack<T, kPack> places[2 * RowsOnTheWay<T, kPack>::kPlaces * kConvThreads];
  const int tile = blockIdx.x / given.columns;
  const int column = blockIdx.x % given.columns;
  const int run = threadIdx.x / kConvLanes;
  const int place = static_cast<int>(threadIdx.x) % kConvLanes * kPack;
  const int channel = column * kChannels + place;
  const int first = (tile * kConvRuns + run) * given.run;
  ParameterGradients<T, kPack, kWidth> parameters;
  if (channel < given.channels && first < given.tokens) {
    const int end = min(given.tokens, first + given.run);
    const ConvFilter<T, kPack, kWidth> filter(given, channel);
    int token = first;
    for (int sequence = sequence_at(given, first); token < end && sequence < given.sequences;
         ++sequence) {
      const int last = min(end, given.starts[sequence + 1]);
      if (token < last) {
        walk_back<T, kPack, kWidth, kSilu>(
            given,
            gradient,
            filter,
            parameters,
            sequence,
            channel,
            token,
            last,
            places + threadIdx.x);
        token = last;
      }
    }
  }
#pragma unroll
  for (int k = 0; k <= kWidth; ++k) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      of_runs[run][k][place + j] = parameters.sums[k][j];
    }
  }
  __syncthreads();
  Sum<T>* partials = static_cast<Sum<T>*>(gradient.partials);
  for (int i = threadIdx.x; i < (kWidth + 1) * kChannels; i += kConvThreads) {
    const int k = i / kChannels;
    const int to = column * kChannels + i % kChannels;
    if (to < given.channels) {
      Sum<T> sum = 0;
      for (int other = 0; other < kConvRuns; ++other) {
        sum += of_runs[other][k][i % kChannels];
      }
      partials[(static_cast<long long>(tile) * (kWidth + 1) + k) * given.channels + to] = sum;
    }
  }
}

/// Adds the partials over the tiles. A block takes kWarpThreads of the (width + 1) * channels sums;
/// each of its warps adds up every kWarps-th tile, then the warps' sums are added in their order.
template <typename T>
__global__ void __launch_bounds__(kRowThreads) causal_conv1d_parameters(
    const ConvArguments given,
    const Sum<T>* partials,
    void* dweight,
    void* dbias) {
  constexpr int kWarps = kRowThreads / kWarpThreads;
  __shared__ Sum<T> of_warps[kWarps][kWarpThreads];
  const int warp = threadIdx.x / kWarpThreads;
  const int lane = threadIdx.x % kWarpThreads;
  const int index = blockIdx.x * kWarpThreads + lane;
  const int count = (given.width + 1) * given.channels;
  Sum<T> sum = 0;
  if (index < count) {
#pragma unroll 8
    for (int tile = warp; tile < given.tiles; tile += kWarps) {
      sum += partials[static_cast<long long>(tile) * count + index];
    }
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || index >= count) {
    return;
  }
  for (int other = 1; other < kWarps; ++other) {
    sum += of_warps[other][lane];
  }
  const int k = index / given.channels;
  const int channel = index % given.channels;
  if (k < given.width) {
    const long long at = static_cast<long long>(channel) * given.width + k;
    write_value<T>(sum, dweight, given.fp32_weight, at);
  } else if (dbias != nullptr) {
    write_value<T>(sum, dbias, given.fp32_bias, channel);
  }
}

/// The gradient before the activation of output `offset` of a sequence, at one channel.
template <typename T>
__device__ Sum<T> output_gradient(
    const ConvArguments& given,
    const ConvGradientArguments& gradient,
    int start,
    int slot,
    int channel,
    int offset) {
  const Sum<T> dy =
      static_cast<Sum<T>>(*rows_of<T>(gradient.dy, gradient.dy_stride, channel).at(start + offset));
  if (!given.silu) {
    return dy;
  }
  Sum<T> sum =
      given.bias == nullptr ? Sum<T>(0) : read_value<T>(given.bias, given.fp32_bias, channel);
  for (int k = 0; k < given.width; ++k) {
    const long long at = static_cast<long long>(channel) * given.width + k;
    sum += read_value<T>(given.weight, given.fp32_weight, at) *
           input_at<T>(given, start, slot, channel, offset - given.width + 1 + k);
  }
  return dy * silu_slope(sum, sigmoid(sum));
}

/// Gradient of one column of the state that a sequence starts from: of the outputs that see it, and
/// of the final state of a sequence too short to push it out.
template <typename T>
__device__ Sum<T> column_gradient(
    const ConvArguments& given,
    const ConvGradientArguments& gradient,
    int sequence,
    int slot,
    int channel,
    int column) {
  const int start = given.starts[sequence];
  const int length = given.starts[sequence + 1] - start;
  Sum<T> sum = 0;
  if (gradient.dfinal_states != nullptr && column >= length) {
    const long long row = static_cast<long long>(sequence) * given.channels + channel;
    sum = read_value<T>(
        gradient.dfinal_states,
        gradient.fp32_dfinal_states,
        row * (given.width - 1) + column - length);
  }
  for (int offset = 0; offset < min(length, column + 1); ++offset) {
    const long long at = static_cast<long long>(channel) * given.width + column - offset;
    sum += read_value<T>(given.weight, given.fp32_weight, at) *
           output_gradient<T>(given, gradient, start, slot, channel, offset);
  }
  return sum;
}

/// Gradient of the states, of which a thread takes one channel of one slot: the sequences that
/// start from the slot are added in their order.
template <typename T>
__global__ void __launch_bounds__(kConvThreads, 8) causal_conv1d_state_gradients(
    const ConvArguments given,
    const ConvGradientArguments gradient,
    void* dstates) {
  const int blocks = (given.channels + kConvThreads - 1) / kConvThreads; // of a slot
  const int slot = blockIdx.x / blocks;
  const int channel = blockIdx.x % blocks * kConvThreads + threadIdx.x;
  if (channel >= given.channels) {
    return;
  }
  const long long first =
      (static_cast<long long>(slot) * given.channels + channel) * (given.width - 1);
  for (int column = 0; column < given.width - 1; ++column) {
    Sum<T> sum = 0;
    if (given.slots_B == nullptr) {
      sum = column_gradient<T>(given, gradient, slot, slot, channel, column);
    } else {
      for (int sequence = 0; sequence < given.sequences; ++sequence) {
        if (given.slots_B[sequence] == slot) {
          sum += column_gradient<T>(given, gradient, sequence, slot, channel, column);
        }
      }
    }
    write_value<T>(sum, dstates, given.fp32_states, first + column);
  }
}

} // namespace baton
