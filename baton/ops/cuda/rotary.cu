// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding.
#include "baton/ops/cuda/rows.cuh"

namespace baton {

/// position * frequency, less whole turns. The angle is fp64 and brought near zero there: at a
/// million positions an fp32 angle would be off by a tenth of a turn.
__device__ inline double angle_near_zero(long long position, double frequency) {
  constexpr double kTurn = 6.283185307179586;
  constexpr double kTurnRest = 2.4492935982947064e-16; // of two pi beyond the fp64 number
  const double angle = static_cast<double>(position) * frequency;
  const double turns = rint(angle * (1.0 / kTurn));
  return fma(-turns, kTurnRest, fma(-turns, kTurn, angle));
}

__device__ inline void sine_and_cosine(double angle, double& sine, double& cosine) {
  sincos(angle, &sine, &cosine);
}

/// In half turns, which takes no further reduction of the angle.
__device__ inline void sine_and_cosine(double angle, float& sine, float& cosine) {
  constexpr double kHalfTurns = 0.3183098861837907;
  sincospif(static_cast<float>(angle * kHalfTurns), &sine, &cosine);
}

/// Where the channels of one head lie that a thread turns: kPack pairs, the two of pair j at
/// first[j] and second[j], or at the neighbours 2j and 2j + 1 of first and second taken together.
template <typename T, int kPack, bool kInterleaved>
struct Pairs {
  Pack<T, kPack> first;
  Pack<T, kPack> second;

  __device__ Pairs turned(const Sum<T> (&cosines)[kPack], const Sum<T> (&sines)[kPack]) const {
    Pairs out;
    if constexpr (kInterleaved) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        turn(of(2 * j), of(2 * j + 1), cosines[j], sines[j], out.of(2 * j), out.of(2 * j + 1));
      }
    } else {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        turn(
            first.values[j],
            second.values[j],
            cosines[j],
            sines[j],
            out.first.values[j],
            out.second.values[j]);
      }
    }
    return out;
  }

 private:
  __device__ T& of(int i) {
    return i < kPack ? first.values[i] : second.values[i - kPack];
  }
  __device__ T of(int i) const {
    return i < kPack ? first.values[i] : second.values[i - kPack];
  }

  __device__ static void turn(T a, T b, Sum<T> cosine, Sum<T> sine, T& to_a, T& to_b) {
    const Sum<T> x = static_cast<Sum<T>>(a);
    const Sum<T> y = static_cast<Sum<T>>(b);
    to_a = static_cast<T>(x * cosine - y * sine);
    to_b = static_cast<T>(y * cosine + x * sine);
  }
};

/// The heads of one token, of which a thread takes those from `begin` to `end`.
template <typename T>
struct TokenHeads {
  const T* x;
  T* y; ///< dense
  long long head_stride;
  int head_dim;
  int begin;
  int end;

  __device__ const T* x_at(int head) const { return x + head * head_stride; }
  __device__ T* y_at(int head) const { return y + static_cast<long long>(head) * head_dim; }

  template <int kPack>
  __device__ void copy(int channel) const {
    for (int head = begin; head < end; ++head) {
      store_pack(load_pack<T, kPack>(x_at(head) + channel), y_at(head) + channel);
    }
  }

  /// Pairs of a head, of which the first ones lie at `first`, the second ones at `second`.
  template <bool kInterleaved, int kPack>
  __device__ Pairs<T, kPack, kInterleaved> load(int head, int first, int second) const {
    const T* x_P = x_at(head);
    return {load_pack<T, kPack>(x_P + first), load_pack<T, kPack>(x_P + second)};
  }

  /// Turns such pairs of all heads; `in` are those of the first.
  template <bool kInterleaved, int kPack>
  __device__ void turn(
      Pairs<T, kPack, kInterleaved> in,
      int first,
      int second,
      const Sum<T> (&cosines)[kPack],
      const Sum<T> (&sines)[kPack]) const {
    for (int head = begin; head < end; ++head) {
      const auto out = in.turned(cosines, sines);
      store_pack(out.first, y_at(head) + first);
      store_pack(out.second, y_at(head) + second);
      if (head + 1 < end) {
        in = load<kInterleaved, kPack>(head + 1, first, second);
      }
    }
  }
};

/// A thread turns the same kPack pairs of some heads of a token, or copies kPack channels that do
/// not turn: blockIdx.y counts heads_of_thread heads. Frequencies are fp32 or fp64, the other is
/// null. y is dense.
template <typename T, int kPack, bool kInterleaved>
__global__ void __launch_bounds__(kRowThreads, 4) rotary(
    const T* x,
    T* y,
    const long long* positions,
    const float* frequencies,
    const double* fp64_frequencies,
    long long token_stride,
    long long head_stride,
    long long tokens,
    int heads,
    int head_dim,
    int pairs,
    int heads_of_thread,
    double attention_factor) {
  const int turning = pairs / kPack;
  const int items = turning + (head_dim - 2 * pairs) / kPack;
  const long long index = static_cast<long long>(blockIdx.x) * kRowThreads + threadIdx.x;
  // A 64-bit division takes several times as long.
  const long long token = tokens * items <= 0xffffffffll
                              ? static_cast<unsigned>(index) / static_cast<unsigned>(items)
                              : index / items;
  if (token >= tokens) {
    return;
  }
  const int item = static_cast<int>(index - token * items);
  const int begin = blockIdx.y * heads_of_thread;
  const TokenHeads<T> of_token{
      x + token * token_stride,
      y + token * heads * head_dim,
      head_stride,
      head_dim,
      begin,
      min(heads, begin + heads_of_thread)};
  if (item >= turning) {
    of_token.template copy<kPack>(2 * pairs + (item - turning) * kPack);
    return;
  }
  // The angles are computed while the first head is on its way.
  const int first = item * kPack * (kInterleaved ? 2 : 1);
  const int second = first + (kInterleaved ? kPack : pairs);
  const auto in = of_token.template load<kInterleaved, kPack>(begin, first, second);
  Sum<T> cosines[kPack];
  Sum<T> sines[kPack];
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const int pair = item * kPack + j;
    const double frequency = frequencies == nullptr ? fp64_frequencies[pair] : frequencies[pair];
    sine_and_cosine(angle_near_zero(positions[token], frequency), sines[j], cosines[j]);
    sines[j] *= static_cast<Sum<T>>(attention_factor);
    cosines[j] *= static_cast<Sum<T>>(attention_factor);
  }
  of_token.turn(in, first, second, cosines, sines);
}

} // namespace baton
