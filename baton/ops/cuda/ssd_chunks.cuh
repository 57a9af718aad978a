// SPDX-License-Identifier: Apache-2.0
// Segments of the stream, and the time steps and decays of their chunks.
#pragma once

#include <cuda_bf16.h>

#include "baton/ops/cuda/ssd_arguments.cuh"
#include "baton/ops/cuda/tiles.cuh"

namespace baton {

/// Tokens that a walk over a segment takes at a time: 64 for bf16, 32 for fp32, with tiles of the
/// same bytes. Divides kSsdChunk.
template <typename T>
constexpr int kSsdStep = 128 / static_cast<int>(sizeof(T));

/// The same number, of which the compiler knows nothing: what follows from it is made anew in each
/// turn of a loop, and not kept in registers over it.
__device__ inline int renewed(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

struct SsdSegment {
  long long first; ///< its first token in the stream
  int tokens;
  int sequence;
  long long chunk; ///< number of its first chunk
  bool exists;     ///< false for an unused number
};

/// The segment of this number. A sequence without tokens has one segment without tokens.
__device__ inline SsdSegment find_segment(const SsdLayout& layout, int number) {
  const auto first_of = [&](int b) { return layout.starts[b] / layout.segment_tokens + b; };
  int b = number;
  if (layout.segment_tokens <= layout.starts[layout.sequences]) {
    // The last sequence whose first segment is not beyond the number.
    int end = min(layout.sequences, number + 1);
    b = 0;
    while (end - b > 1) {
      const int middle = (b + end) / 2;
      if (first_of(middle) <= number) {
        b = middle;
      } else {
        end = middle;
      }
    }
  }
  const long long start = layout.starts[b];
  const long long before = (number - first_of(b)) * layout.segment_tokens;
  const long long left = layout.starts[b + 1] - start - before;
  return {
      start + before,
      static_cast<int>(max(0ll, min(left, layout.segment_tokens))),
      b,
      start / kSsdChunk + b + before / kSsdChunk,
      before == 0 || left > 0};
}

/// Whether a walk over the segments of a sequence ends with this one.
__device__ inline bool ends_walk(const SsdLayout& layout, const SsdSegment& segment, bool reverse) {
  return reverse ? segment.first == layout.starts[segment.sequence]
                 : segment.first + segment.tokens == layout.starts[segment.sequence + 1];
}

/// Whether a walk has anything to do with a segment. Of one that it only enters, and does not walk,
/// no tokens are left.
__device__ inline bool
takes_segment(const SsdLayout& layout, const SsdSweepWalk& walk, SsdSegment& segment) {
  if (!walk.out.skip_last || !segment.exists || !ends_walk(layout, segment, walk.reverse)) {
    return segment.exists;
  }
  const bool begins = ends_walk(layout, segment, !walk.reverse);
  segment.tokens = 0;
  return walk.out.hands_on && begins;
}

/// Starts copying columns [column, column + columns) of `tokens` tokens, the first of them `token`,
/// as load_rows() does.
template <int kRows, int kThreads, typename T, int kColumns>
__device__ void load_tokens(
    Tile<T, kColumns> to,
    const SsdRows& rows,
    long long token,
    int tokens,
    long long column,
    int columns,
    int thread = static_cast<int>(threadIdx.x)) {
  load_rows<kRows, kThreads>(
      to,
      static_cast<const T*>(rows.data) + token * rows.stride + column,
      rows.stride,
      tokens,
      columns,
      rows.packed,
      thread);
}

/// Time steps and decays of kTokens neighbouring tokens of a head, the first of them 0. With l_i
/// the sum of dt A over tokens 0 to i, times log2(e):
template <int kTokens>
struct SsdTimes {
  float step[kTokens];       ///< dt; 0 beyond the end
  float high[kTokens];       ///< l, as high + low: differences of large sums stay exact
  float low[kTokens];        ///<
  float from_start[kTokens]; ///< exp2(l_i)
  float to_end[kTokens];     ///< exp2(l_last - l_i)
  float input[kTokens];      ///< dt exp2(l_last - l_i)
  float decay;               ///< exp2(l_last)
  double log_decay;          ///< of all tokens, natural logarithm

  /// exp of the sum of dt A over tokens j + 1 to i.
  __device__ float between(int j, int i) const {
    return exp2f((high[i] - high[j]) + (low[i] - low[j]));
  }
};

__device__ inline float read_raw_step(const SsdTimeInputs& time, int head, long long token) {
  const long long at = token * time.token_stride + head * time.head_stride;
  return time.dt_is_fp32 ? static_cast<const float*>(time.dt)[at]
                         : __bfloat162float(static_cast<const __nv_bfloat16*>(time.dt)[at]);
}

/// The raw time steps of a lane's tokens: kTokens / 32 neighbours.
template <int kTokens>
struct SsdRawSteps {
  float values[kTokens / kWarpThreads];
  unsigned marks; ///< bit i: of the i-th
};

/// Reads what write_times() wants, ahead of it. All lanes of a warp call it.
template <int kTokens>
__device__ SsdRawSteps<kTokens>
read_steps(const SsdTimeInputs& time, int head, long long first, int tokens) {
  constexpr int kOwn = kTokens / kWarpThreads;
  SsdRawSteps<kTokens> raw;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int token = warp_lane() * kOwn + i;
    raw.values[i] = token < tokens ? read_raw_step(time, head, first + token) : 0.0f;
  }
  raw.marks = 0;
  if (time.marks != nullptr && warp_lane() * kOwn < tokens) {
    const long long token = first + warp_lane() * kOwn; // of kOwn in one word
    raw.marks = static_cast<unsigned>(time.marks[token / 64] >> (token % 64)) & ((1u << kOwn) - 1);
  }
  return raw;
}

/// dt from a raw time step: bias first, limits last; softplus is the identity above 20.
__device__ inline float time_step(const SsdTimeInputs& time, float bias, float raw) {
  constexpr float kLinear = 20.0f;
  float step = raw + bias;
  if (time.softplus && step <= kLinear) {
    step = log1pf(expf(step));
  }
  return fminf(fmaxf(step, time.min), time.max);
}

/// Fills `times` for `tokens` tokens, the first of which, where there are marks, has a number that
/// is a multiple of kTokens. All lanes of a warp call it; a barrier must follow.
template <int kTokens>
__device__ void write_times(
    SsdTimes<kTokens>& times,
    const SsdTimeInputs& time,
    int head,
    const SsdRawSteps<kTokens>& raw,
    int tokens) {
  constexpr int kOwn = kTokens / kWarpThreads;
  constexpr double kLog2E = 1.4426950408889634;
  const double A = static_cast<double>(time.A_H[head]);
  const float bias = time.bias_H == nullptr ? 0.0f : time.bias_H[head];
  const int first = warp_lane() * kOwn;
  float steps[kOwn];
  double sums[kOwn];
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    steps[i] = first + i < tokens ? time_step(time, bias, raw.values[i]) : 0.0f;
    times.step[first + i] = steps[i];
    const double forgotten = (raw.marks >> i & 1) != 0 ? kSsdForget : 0.0;
    sum += fma(static_cast<double>(steps[i]), A, forgotten);
    sums[i] = sum;
  }
  double before = sum; // of this lane and those before it, then without this one
#pragma unroll
  for (int by = 1; by < kWarpThreads; by *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, before, by);
    before += warp_lane() >= by ? other : 0.0;
  }
  const double total = __shfl_sync(0xffffffffu, before, kWarpThreads - 1);
  before -= sum;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const double l = (before + sums[i]) * kLog2E;
    const float high = static_cast<float>(l);
    times.high[first + i] = high;
    times.low[first + i] = static_cast<float>(l - static_cast<double>(high));
    times.from_start[first + i] = exp2f(high);
    const float to_end = exp2f(static_cast<float>(total * kLog2E - l));
    times.to_end[first + i] = to_end;
    times.input[first + i] = steps[i] * to_end;
  }
  if (warp_lane() == 0) {
    times.decay = exp2f(static_cast<float>(total * kLog2E));
    times.log_decay = total;
  }
}

/// The state [P, N] of a head, from channel and column on, of the entry that `number` takes.
template <int kRows, int kColumns>
__device__ WarpSums<kRows, kColumns> load_state(
    const SsdStates& states,
    const SsdLayout& layout,
    int number,
    int head,
    int channel,
    int column) {
  WarpSums<kRows, kColumns> state;
  const int slot =
      states.data == nullptr ? -1 : (states.slots == nullptr ? number : states.slots[number]);
  if (slot < 0 || slot >= states.count) {
    return state;
  }
  const float* from =
      states.data + slot * states.stride +
      (static_cast<long long>(head) * layout.head_dim + channel) * layout.state_dim + column;
  read_rows(
      state,
      from,
      layout.state_dim,
      layout.head_dim - channel,
      layout.state_dim - column,
      states.packed);
  return state;
}

/// Where the state of a head in [.., H, P, N] begins, from channel and column on.
template <typename Out>
__device__ Out*
state_at(Out* states, const SsdLayout& layout, long long entry, int head, int channel, int column) {
  return states + ((entry * layout.heads + head) * layout.head_dim + channel) * layout.state_dim +
         column;
}

/// Writes the state of a head, from channel and column on, to its place in [.., H, P, N]. All lanes
/// call it.
template <int kRows, int kColumns, typename Out>
__device__ void store_state(
    WarpSums<kRows, kColumns>& state,
    Out* states,
    const SsdLayout& layout,
    long long entry,
    int head,
    int channel,
    int column) {
  constexpr int kGranule = 16 / static_cast<int>(sizeof(Out));
  store_rows(
      state,
      state_at(states, layout, entry, head, channel, column),
      layout.state_dim,
      layout.head_dim - channel,
      layout.state_dim - column,
      layout.state_dim % kGranule == 0);
}

} // namespace baton
