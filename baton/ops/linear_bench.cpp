// SPDX-License-Identifier: Apache-2.0
// Speed of the linear map and of the loss against ATen's products. Threads come from
// OMP_NUM_THREADS.
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>

#include "baton/ops/cross_entropy.h"
#include "baton/ops/linear.h"

namespace baton::ops {
namespace {

/// Several input sets, so that not the cache is measured.
constexpr std::int64_t kSets = 4;

struct Inputs {
  std::vector<at::Tensor> x;
  std::vector<at::Tensor> weight;
  std::size_t next = 0;

  explicit Inputs(const benchmark::State& state) {
    const at::ScalarType dtype = state.range(3) == 16 ? at::kBFloat16 : at::kFloat;
    for (std::int64_t i = 0; i < kSets; ++i) {
      x.push_back(at::randn({state.range(0), state.range(1)}).to(dtype));
      weight.push_back(at::randn({state.range(2), state.range(1)}).to(dtype));
    }
  }

  std::size_t turn() { return next++ % kSets; }
};

void count_products(benchmark::State& state, double per_element) {
  const double products = static_cast<double>(state.range(0)) *
                          static_cast<double>(state.range(1)) * static_cast<double>(state.range(2));
  state.counters["FLOP/s"] =
      benchmark::Counter(per_element * products, benchmark::Counter::kIsIterationInvariantRate);
}

void count_weights(benchmark::State& state) {
  state.SetBytesProcessed(
      state.iterations() * state.range(1) * state.range(2) * state.range(3) / 8);
}

void BM_Linear(benchmark::State& state) {
  Inputs inputs(state);
  for (auto _ : state) {
    const std::size_t i = inputs.turn();
    benchmark::DoNotOptimize(ops::linear(inputs.x[i], inputs.weight[i]));
  }
  count_products(state, 2);
  count_weights(state);
}

void BM_AtenLinear(benchmark::State& state) {
  Inputs inputs(state);
  const c10::InferenceMode inference;
  for (auto _ : state) {
    const std::size_t i = inputs.turn();
    benchmark::DoNotOptimize(at::linear(inputs.x[i], inputs.weight[i]));
  }
  count_products(state, 2);
  count_weights(state);
}

/// Forward and both gradients.
void BM_LinearTraining(benchmark::State& state) {
  Inputs inputs(state);
  for (auto _ : state) {
    const std::size_t i = inputs.turn();
    const at::Tensor x = inputs.x[i].detach().requires_grad_();
    const at::Tensor weight = inputs.weight[i].detach().requires_grad_();
    const at::Tensor y = ops::linear(x, weight);
    y.backward(y.detach());
    benchmark::DoNotOptimize(weight.grad());
  }
  count_products(state, 6);
}

void BM_AtenLinearTraining(benchmark::State& state) {
  Inputs inputs(state);
  for (auto _ : state) {
    const std::size_t i = inputs.turn();
    const at::Tensor x = inputs.x[i].detach().requires_grad_();
    const at::Tensor weight = inputs.weight[i].detach().requires_grad_();
    const at::Tensor y = at::linear(x, weight);
    y.backward(y.detach());
    benchmark::DoNotOptimize(weight.grad());
  }
  count_products(state, 6);
}

/// Loss and gradients; the third size is the vocabulary.
void BM_CrossEntropy(benchmark::State& state) {
  Inputs inputs(state);
  const at::Tensor labels = at::randint(0, state.range(2), {state.range(0)}, at::kLong);
  for (auto _ : state) {
    const std::size_t i = inputs.turn();
    const at::Tensor x = inputs.x[i].detach().requires_grad_();
    const at::Tensor weight = inputs.weight[i].detach().requires_grad_();
    cross_entropy(x, weight, labels).loss_sum.backward();
    benchmark::DoNotOptimize(weight.grad());
  }
  count_products(state, 6);
}

void BM_AtenCrossEntropy(benchmark::State& state) {
  Inputs inputs(state);
  const at::Tensor labels = at::randint(0, state.range(2), {state.range(0)}, at::kLong);
  for (auto _ : state) {
    const std::size_t i = inputs.turn();
    const at::Tensor x = inputs.x[i].detach().requires_grad_();
    const at::Tensor weight = inputs.weight[i].detach().requires_grad_();
    at::cross_entropy_loss(at::linear(x, weight), labels, {}, at::Reduction::Sum).backward();
    benchmark::DoNotOptimize(weight.grad());
  }
  count_products(state, 6);
}

void training_sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"rows", "in", "out", "bits"})->UseRealTime()->Unit(benchmark::kMillisecond);
  bench->Args({1024, 256, 1024, 32})->Args({2048, 512, 2048, 32})->Args({2048, 2048, 512, 32});
  bench->Args({8192, 256, 256, 32})->Args({1024, 256, 1024, 16});
}

void loss_sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"rows", "in", "vocabulary", "bits"})->UseRealTime();
  bench->Unit(benchmark::kMillisecond)->Args({1024, 256, 8192, 32})->Args({512, 512, 32000, 32});
}

void step_sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"rows", "in", "out", "bits"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const std::int64_t bits : {32, 16}) {
    for (const std::int64_t rows : {1, 2, 4, 8}) {
      bench->Args({rows, 4096, 4096, bits});
    }
  }
}

BENCHMARK(BM_LinearTraining)->Apply(training_sizes);
BENCHMARK(BM_AtenLinearTraining)->Apply(training_sizes);
BENCHMARK(BM_CrossEntropy)->Apply(loss_sizes);
BENCHMARK(BM_AtenCrossEntropy)->Apply(loss_sizes);
BENCHMARK(BM_Linear)->Apply(step_sizes);
BENCHMARK(BM_AtenLinear)->Apply(step_sizes);

} // namespace
} // namespace baton::ops
