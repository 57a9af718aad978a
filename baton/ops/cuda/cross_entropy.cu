// SPDX-License-Identifier: Apache-2.0
// Cross entropy of logits, which become their own gradient in place. Statistics are fp32, or fp64
// for fp64.
#include "baton/ops/cuda/rows.cuh"

namespace baton {

constexpr int kLossThreads = 512;

__device__ inline float exponential(float x) {
  return expf(x);
}
__device__ inline double exponential(double x) {
  return exp(x);
}
__device__ inline float logarithm(float x) {
  return logf(x);
}
__device__ inline double logarithm(double x) {
  return log(x);
}

/// The largest of some logits, and the sum of exp(logit - maximum).
template <typename S>
struct SoftmaxSums {
  S maximum = -static_cast<S>(__builtin_bit_cast(float, 0x7f800000u));
  S sum = 0;

  __device__ S factor_to(S other) const {
    return sum == 0 ? static_cast<S>(0) : exponential(maximum - other);
  }

  template <int kCount>
  __device__ void add(const S (&logits)[kCount]) {
    S highest = maximum;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      highest = logits[i] > highest ? logits[i] : highest;
    }
    if (highest > maximum) {
      sum *= factor_to(highest);
      maximum = highest;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      sum += exponential(logits[i] - maximum);
    }
  }

  __device__ void add(const SoftmaxSums& other) {
    const S highest = other.maximum > maximum ? other.maximum : maximum;
    sum = sum * factor_to(highest) + other.sum * other.factor_to(highest);
    maximum = highest;
  }
};

/// Of the whole block, for every thread, in the same order each time. All threads call it.
template <typename S>
__device__ SoftmaxSums<S> block_softmax(SoftmaxSums<S> mine) {
  constexpr int kLossWarps = kLossThreads / kWarpThreads;
  __shared__ S maxima[kLossWarps];
  __shared__ S sums[kLossWarps];
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    SoftmaxSums<S> other;
    other.maximum = __shfl_down_sync(0xffffffffu, mine.maximum, step);
    other.sum = __shfl_down_sync(0xffffffffu, mine.sum, step);
    mine.add(other);
  }
  if (threadIdx.x % kWarpThreads == 0) {
    maxima[threadIdx.x / kWarpThreads] = mine.maximum;
    sums[threadIdx.x / kWarpThreads] = mine.sum;
  }
  __syncthreads();
  SoftmaxSums<S> all;
  for (int warp = 0; warp < kLossWarps; ++warp) {
    SoftmaxSums<S> other;
    other.maximum = maxima[warp];
    other.sum = sums[warp];
    all.add(other);
  }
  return all;
}

/// A pack of a row's logits, times scale; -infinity past the end, where nothing was written.
template <typename S, int kPack>
__device__ Pack<S, kPack>
load_logits(const S* logits_V, long long first, long long vocabulary, S scale) {
  Pack<S, kPack> in;
  if (first + kPack <= vocabulary) {
    in = load_pack<S, kPack>(logits_V + first);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      in.values[j] *= scale;
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      in.values[j] =
          first + j < vocabulary ? logits_V[first + j] * scale : SoftmaxSums<S>().maximum;
    }
  }
  return in;
}

/// logits_V become weight * (softmax - 1 at the label) as G, from the row's beginning. All threads
/// of the block go through the row together, since a narrower gradient would overwrite logits that
/// others have yet to read.
template <typename S, typename G>
__device__ void write_gradient(
    S* logits_V,
    long long vocabulary,
    long long label,
    S scale,
    S weight,
    const SoftmaxSums<S>& softmax) {
  constexpr int kPack = 16 / sizeof(S);
  G* out_V = reinterpret_cast<G*>(logits_V);
  const S factor = weight / softmax.sum;
  for (long long first = 0; first < vocabulary; first += kLossThreads * kPack) {
    const long long i = first + threadIdx.x * kPack;
    Pack<G, kPack> out = {};
    if (i < vocabulary && weight != 0) { // zeros also where an exponential overflowed
      const auto in = load_logits<S, kPack>(logits_V, i, vocabulary, scale);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const S power = exponential(in.values[j] - softmax.maximum);
        out.values[j] = static_cast<G>(power * factor - (i + j == label ? weight : S(0)));
      }
    }
    __syncthreads();
    if (i < vocabulary) {
      store_pack(out, out_V + i);
    }
  }
}

/// One block a token: nll, and where `gradients` the row of logits becomes the gradient of mask *
/// nll as G. Rows lie `stride` apart, whole packs of 16 bytes, which may reach past the vocabulary.
/// A label out of range gives NaN.
template <typename S, typename G>
__global__ void __launch_bounds__(kLossThreads) token_losses(
    S* logits,
    const long long* labels,
    const S* mask,
    S* nll,
    long long stride,
    long long vocabulary,
    S scale,
    int gradients) {
  constexpr int kPack = 16 / sizeof(S);
  constexpr long long kIgnoredLabel = -100;
  S* logits_V = logits + blockIdx.x * stride;
  const long long label = labels[blockIdx.x];
  SoftmaxSums<S> softmax;
  S weight = 0;
  if (label == kIgnoredLabel) {
    if (threadIdx.x == 0) {
      nll[blockIdx.x] = 0;
    }
  } else {
#pragma unroll 4
    for (long long i = threadIdx.x * kPack; i < vocabulary; i += kLossThreads * kPack) {
      softmax.add(load_logits<S, kPack>(logits_V, i, vocabulary, scale).values);
    }
    softmax = block_softmax(softmax);
    const bool known = label >= 0 && label < vocabulary;
    const S missing = static_cast<S>(__builtin_bit_cast(float, 0x7fc00000u)); // NaN
    if (threadIdx.x == 0) {
      const S target = known ? logits_V[label] * scale : missing;
      nll[blockIdx.x] = softmax.maximum + logarithm(softmax.sum) - target;
    }
    weight = known ? scale * (mask == nullptr ? static_cast<S>(1) : mask[blockIdx.x]) : missing;
  }
  if (gradients != 0) {
    write_gradient<S, G>(logits_V, vocabulary, label, scale, weight, softmax);
  }
}

/// loss = the sum of mask * nll in fp64, by one block. Tokens of weight 0 do not count, whatever
/// their nll.
template <typename S>
__global__ void __launch_bounds__(kRowThreads)
    sum_losses(const S* nll, const S* mask, S* loss, long long tokens) {
  double sums[1] = {0};
  for (long long i = threadIdx.x; i < tokens; i += kRowThreads) {
    const double weight = mask == nullptr ? 1.0 : static_cast<double>(mask[i]);
    if (weight != 0) {
      sums[0] += static_cast<double>(nll[i]) * weight;
    }
  }
  block_sums(sums);
  if (threadIdx.x == 0) {
    *loss = static_cast<S>(sums[0]);
  }
}

} // namespace baton
