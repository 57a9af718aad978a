// SPDX-License-Identifier: Apache-2.0
// Speed of the operators that only move data: bytes that must be read and written once, a second.
#include <functional>
#include <vector>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include "baton/base/layout.h"
#include "baton/ops/activation.h"
#include "baton/ops/causal_conv1d.h"
#include "baton/ops/dropout.h"
#include "baton/ops/gated_norm.h"
#include "baton/ops/rms_norm.h"
#include "baton/ops/rotary.h"

namespace baton::ops {
namespace {

// Several inputs in turn, together larger than the caches.
constexpr std::int64_t kSets = 4;
constexpr std::int64_t kTokens = 4096;
constexpr std::int64_t kChannels = 2048;

struct Set {
  at::Tensor x;
  at::Tensor z;
  at::Tensor dy;
};

/// Runs `op` on sets of three [4096, 2048] tensors; `passes` counts how many of them, and of
/// results, it reads and writes.
void measure(
    benchmark::State& state,
    at::ScalarType dtype,
    double passes,
    const std::function<void(const Set&)>& op) {
  std::vector<Set> sets;
  for (std::int64_t i = 0; i < kSets; ++i) {
    const auto values = [&] { return at::randn({kTokens, kChannels}).to(dtype); };
    sets.push_back({values(), values(), values()});
  }
  op(sets[0]);
  std::size_t turn = 0;
  for (auto _ : state) {
    op(sets[turn++ % sets.size()]);
  }
  const double bytes = passes * static_cast<double>(sets[0].x.nbytes());
  state.counters["GB/s"] = benchmark::Counter(
      bytes * static_cast<double>(state.iterations()) * 1e-9, benchmark::Counter::kIsRate);
}

void BM_Copy(benchmark::State& state, at::ScalarType dtype) {
  measure(state, dtype, 2, [](const Set& set) { set.x.clone(); });
}

void BM_RmsNorm(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor weight = at::ones({kChannels}, dtype);
  measure(state, dtype, 2, [&](const Set& set) { rms_norm(set.x, weight, 1e-5); });
}

void BM_RmsNormBackward(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor weight = at::ones({kChannels}, dtype);
  measure(state, dtype, 3, [&](const Set& set) { rms_norm_backward(set.dy, set.x, weight, 1e-5); });
}

void BM_GatedNorm(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor weight = at::ones({kChannels}, dtype);
  measure(state, dtype, 3, [&](const Set& set) {
    gated_norm(set.x, set.z, weight, {1e-5, kChannels, true});
  });
}

void BM_GatedNormBackward(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor weight = at::ones({kChannels}, dtype);
  measure(state, dtype, 5, [&](const Set& set) {
    gated_norm_backward(set.dy, set.x, set.z, weight, {1e-5, kChannels, true});
  });
}

void BM_CausalConv1d(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor weight = at::randn({kChannels, 4}).to(dtype);
  const at::Tensor bias = at::randn({kChannels}).to(dtype);
  const at::Tensor starts = make_layout_from_lengths({kTokens / 2, kTokens / 2}).starts_B1;
  measure(state, dtype, 2, [&](const Set& set) {
    causal_conv1d(set.x, weight, bias, starts, {}, true);
  });
}

void BM_CausalConv1dWithBackward(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor weight = at::randn({kChannels, 4}).to(dtype).requires_grad_(true);
  const at::Tensor bias = at::randn({kChannels}).to(dtype).requires_grad_(true);
  const at::Tensor starts = make_layout_from_lengths({kTokens / 2, kTokens / 2}).starts_B1;
  measure(state, dtype, 5, [&](const Set& set) {
    const at::Tensor x = set.x.detach().requires_grad_(true);
    causal_conv1d(x, weight, bias, starts, {}, true).y_TC.backward(set.dy);
  });
}

void BM_SquaredRelu(benchmark::State& state, at::ScalarType dtype) {
  measure(state, dtype, 2, [](const Set& set) { squared_relu(set.x); });
}

void BM_Swiglu(benchmark::State& state, at::ScalarType dtype) {
  measure(state, dtype, 1.5, [](const Set& set) { swiglu(set.x); });
}

void BM_Rotary(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor positions = at::arange(kTokens, at::kLong);
  const at::Tensor frequencies = rotary_frequencies({.head_dim = 128}).inverse_frequencies;
  measure(state, dtype, 2, [&](const Set& set) {
    rotary(set.x.unflatten(1, {-1, 128}), positions, frequencies, 1.0, false);
  });
}

void BM_Dropout(benchmark::State& state, at::ScalarType dtype) {
  measure(state, dtype, 2, [](const Set& set) { dropout(set.x, RandomKey(1), 0, 0.1); });
}

#define BATON_DENSE_BENCHMARK(name)                                                        \
  BENCHMARK_CAPTURE(name, fp32, at::kFloat)->UseRealTime()->Unit(benchmark::kMillisecond); \
  BENCHMARK_CAPTURE(name, bf16, at::kBFloat16)->UseRealTime()->Unit(benchmark::kMillisecond)

BATON_DENSE_BENCHMARK(BM_Copy);
BATON_DENSE_BENCHMARK(BM_RmsNorm);
BATON_DENSE_BENCHMARK(BM_RmsNormBackward);
BATON_DENSE_BENCHMARK(BM_GatedNorm);
BATON_DENSE_BENCHMARK(BM_GatedNormBackward);
BATON_DENSE_BENCHMARK(BM_CausalConv1d);
BATON_DENSE_BENCHMARK(BM_CausalConv1dWithBackward);
BATON_DENSE_BENCHMARK(BM_SquaredRelu);
BATON_DENSE_BENCHMARK(BM_Swiglu);
BATON_DENSE_BENCHMARK(BM_Rotary);
BATON_DENSE_BENCHMARK(BM_Dropout);

} // namespace
} // namespace baton::ops
