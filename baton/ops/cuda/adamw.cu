// SPDX-License-Identifier: Apache-2.0
// AdamW in one pass: the CPU operator's formula with its roundings, which fused multiply-adds fix.
#include "baton/ops/cuda/adamw_factors.cuh"
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

/// One parameter; S is the working type, P and G hold the parameter and the gradient.
template <typename S, typename P, typename G>
struct AdamwSpan {
  P* parameter;
  const G* grad;
  S* exp_avg;
  S* exp_avg_sq;
  S* master; ///< null without a master
};

/// a b + c, rounded once.
__device__ inline float fused(float a, float b, float c) {
  return fmaf(a, b, c);
}

__device__ inline double fused(double a, double b, double c) {
  return fma(a, b, c);
}

template <typename S, int kPack>
__device__ void read(const S* from, S (&values)[kPack]) {
  widen(load_pack<S, kPack>(from), values);
}

template <int kPack, typename S, typename T>
__device__ void write(const S (&values)[kPack], T* to) {
  Pack<T, kPack> out;
  narrow(values, out);
  store_pack(out, to);
}

/// kPack values from `at` on.
template <int kPack, typename S, typename P, typename G>
__device__ void
update(const AdamwSpan<S, P, G>& span, long long at, const AdamwFactors<S>& factors) {
  S grad[kPack];
  S exp_avg[kPack];
  S exp_avg_sq[kPack];
  S weight[kPack];
  widen(load_pack<G, kPack>(span.grad + at), grad);
  read(span.exp_avg + at, exp_avg);
  read(span.exp_avg_sq + at, exp_avg_sq);
  if (span.master == nullptr) {
    widen(load_pack<P, kPack>(span.parameter + at), weight);
  } else {
    read(span.master + at, weight);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const S g = grad[i] * factors.grad_scale;
    exp_avg[i] = fused(factors.rest1, g, factors.beta1 * exp_avg[i]);
    exp_avg_sq[i] = fused(factors.rest2 * g, g, factors.beta2 * exp_avg_sq[i]);
    const S root = sqrt(exp_avg_sq[i]);
    const S change =
        factors.step_size * exp_avg[i] / fused(root, factors.root_correction, factors.eps);
    weight[i] = fused(factors.keep, weight[i], -change);
  }
  write(exp_avg, span.exp_avg + at);
  write(exp_avg_sq, span.exp_avg_sq + at);
  if (span.master != nullptr) {
    write(weight, span.master + at);
  }
  write(weight, span.parameter + at);
}

/// A thread takes one pack; `count` may end within a pack.
template <typename S, typename P, typename G, int kPack>
__global__ void __launch_bounds__(kRowThreads) adamw(
    P* parameter,
    const G* grad,
    S* exp_avg,
    S* exp_avg_sq,
    S* master,
    long long count,
    const AdamwFactors<S> factors) {
  const AdamwSpan<S, P, G> span = {parameter, grad, exp_avg, exp_avg_sq, master};
  long long at = (static_cast<long long>(blockIdx.x) * kRowThreads + threadIdx.x) * kPack;
  if (at + kPack <= count) {
    update<kPack>(span, at, factors);
    return;
  }
  for (; at < count; ++at) {
    update<1>(span, at, factors);
  }
}

} // namespace baton
