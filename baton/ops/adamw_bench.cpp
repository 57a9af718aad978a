// SPDX-License-Identifier: Apache-2.0
// Speed of the fused AdamW update and of the sum of squares, beside the same update in ATen calls.
#include <vector>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include "baton/ops/adamw.h"
#include "baton/ops/sum_squares.h"

namespace baton::ops {
namespace {

// Several parameters in turn, together larger than the caches.
constexpr int kSets = 8;

struct Set {
  at::Tensor parameter;
  at::Tensor grad;
  AdamwMoments moments;
};

std::vector<Set> make_sets(std::int64_t count, at::ScalarType dtype) {
  std::vector<Set> sets;
  for (int i = 0; i < kSets; ++i) {
    Set set{at::randn({count}), at::randn({count}).to(dtype), {}};
    set.moments.exp_avg = at::zeros({count});
    set.moments.exp_avg_sq = at::zeros({count});
    if (dtype == at::kBFloat16) {
      set.moments.master = set.parameter.clone();
    }
    set.parameter = set.parameter.to(dtype);
    sets.push_back(set);
  }
  return sets;
}

// fp32: parameter and moments read and written, gradient read. bf16: the master in place of the
// parameter, which is written only; gradient and parameter take half the bytes. 28 either way.
constexpr std::int64_t kBytesPerValue = 28;

void BM_AdamW(benchmark::State& state, at::ScalarType dtype) {
  const std::int64_t count = state.range(0);
  const std::vector<Set> sets = make_sets(count, dtype);
  std::int64_t step = 0;
  for (auto _ : state) {
    const Set& set = sets[static_cast<std::size_t>(step % kSets)];
    ++step;
    adamw_(set.parameter, set.grad, set.moments, {.lr = 1e-4, .weight_decay = 0.1, .step = step});
  }
  state.SetBytesProcessed(state.iterations() * count * kBytesPerValue);
}

void BM_AdamWInAtenCalls(benchmark::State& state) {
  const std::int64_t count = state.range(0);
  const std::vector<Set> sets = make_sets(count, at::kFloat);
  std::int64_t step = 0;
  for (auto _ : state) {
    const Set& set = sets[static_cast<std::size_t>(step % kSets)];
    ++step;
    set.parameter.mul_(1 - 1e-5);
    set.moments.exp_avg.lerp_(set.grad, 0.1);
    set.moments.exp_avg_sq.mul_(0.95).addcmul_(set.grad, set.grad, 0.05);
    set.parameter.addcdiv_(set.moments.exp_avg, set.moments.exp_avg_sq.sqrt().add_(1e-8), -1e-4);
  }
  state.SetBytesProcessed(state.iterations() * count * kBytesPerValue);
}

void BM_SumSquares(benchmark::State& state, at::ScalarType dtype) {
  const std::int64_t count = state.range(0);
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < kSets; ++i) {
    inputs.push_back(at::randn({count}).to(dtype));
  }
  std::size_t call = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(sum_squares(inputs[call++ % kSets]));
  }
  state.SetBytesProcessed(
      state.iterations() * count * static_cast<std::int64_t>(c10::elementSize(dtype)));
}

BENCHMARK_CAPTURE(BM_AdamW, fp32, at::kFloat)->Arg(1 << 22)->UseRealTime();
BENCHMARK_CAPTURE(BM_AdamW, bf16, at::kBFloat16)->Arg(1 << 22)->UseRealTime();
BENCHMARK(BM_AdamWInAtenCalls)->Arg(1 << 22)->UseRealTime();
BENCHMARK_CAPTURE(BM_SumSquares, fp32, at::kFloat)->Arg(1 << 22)->UseRealTime();
BENCHMARK_CAPTURE(BM_SumSquares, bf16, at::kBFloat16)->Arg(1 << 22)->UseRealTime();

} // namespace
} // namespace baton::ops
