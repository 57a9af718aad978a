// SPDX-License-Identifier: Apache-2.0
// The scan on the CPU against the time of its own matrix products at the rate of a large product.
#include <array>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include "baton/ops/ssd.h"
#include "baton/ops/ssd_state.h"
#include "baton/ops/ssd_step.h"

namespace baton::ops {
namespace {

constexpr std::int64_t kChunk = 64;
// Several sets of inputs, so that no run finds its inputs in the cache by luck.
constexpr int kSets = 3;

struct Shape {
  std::int64_t T, H, P, G, N;

  double forward_flops() const { return 2.0 * T * (H * P * (2 * N + kChunk) + G * N * kChunk); }
  double backward_flops() const {
    return 2.0 * T * (H * P * (5 * N + 2 * kChunk) + 3 * G * N * kChunk);
  }
};

Shape shape_of(const benchmark::State& state) {
  return {state.range(0), state.range(1), state.range(2), state.range(3), state.range(4)};
}

SsdInputs make_inputs(const Shape& s, at::ScalarType dtype) {
  return {
      at::randn({s.T, s.H, s.P}).to(dtype),
      at::randn({s.T, s.H}).to(dtype),
      -at::rand({s.H}) - 0.5,
      at::randn({s.T, s.G, s.N}).to(dtype),
      at::randn({s.T, s.G, s.N}).to(dtype),
      at::tensor({std::int64_t{0}, s.T}, at::TensorOptions().dtype(at::kInt)),
      at::ones({s.H}),
      {at::randn({s.H}) - 3.0}};
}

std::vector<SsdInputs> make_sets(const Shape& shape, at::ScalarType dtype) {
  std::vector<SsdInputs> sets;
  for (int i = 0; i < kSets; ++i) {
    sets.push_back(make_inputs(shape, dtype));
  }
  return sets;
}

void report_flops(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

template <at::ScalarType dtype>
void forward(benchmark::State& state) {
  const Shape shape = shape_of(state);
  const auto sets = make_sets(shape, dtype);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ssd(sets[i++ % kSets]));
  }
  report_flops(state, shape.forward_flops());
}

template <at::ScalarType dtype>
void backward(benchmark::State& state) {
  const Shape shape = shape_of(state);
  const auto sets = make_sets(shape, dtype);
  const at::Tensor dy = at::randn_like(sets[0].x_THP);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ssd_backward(dy, std::nullopt, sets[i++ % kSets]));
  }
  report_flops(state, shape.backward_flops());
}

void only_state(benchmark::State& state) {
  const Shape shape = shape_of(state);
  const auto sets = make_sets(shape, at::kFloat);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ssd_state(sets[i++ % kSets]));
  }
  report_flops(state, 2.0 * shape.T * shape.H * shape.P * shape.N);
}

// Bytes of state read and written are the floor of a decoding step.
void step(benchmark::State& state) {
  const Shape shape = shape_of(state);
  const SsdInputs in = make_inputs(shape, at::kFloat);
  const SsdStepInputs rows{in.x_THP, in.dt_TH, in.A_H, in.B_TGN, in.C_TGN, in.D, in.time_step};
  at::Tensor states = at::randn({shape.T, shape.H, shape.P, shape.N});
  const at::Tensor slots = at::arange(shape.T, at::kInt);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ssd_step_(rows, states, slots));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * states.nbytes()));
}

// The machine's rate.
void large_product(benchmark::State& state) {
  const std::int64_t size = state.range(0);
  const at::Tensor a = at::randn({size, size});
  const at::Tensor b = at::randn({size, size});
  at::Tensor out = at::empty({size, size});
  for (auto _ : state) {
    at::mm_out(out, a, b);
  }
  report_flops(state, 2.0 * static_cast<double>(size * size * size));
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"T", "H", "P", "G", "N"})
      ->Args({4096, 16, 64, 2, 128})
      ->Args({4096, 8, 64, 1, 64})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

// Cost and length: the last column must not depend on the first.
void lengths(benchmark::State& state) {
  const Shape shape{state.range(0), 8, 64, 1, 64};
  const SsdInputs in = make_inputs(shape, at::kFloat);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ssd(in));
  }
  state.counters["s_per_Mtoken"] = benchmark::Counter(
      static_cast<double>(state.iterations() * shape.T) * 1e-6,
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

BENCHMARK(lengths)
    ->Name("ssd/length")
    ->RangeMultiplier(4)
    ->Range(1 << 10, 1 << 18)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(large_product)->Arg(2048)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(forward<at::kFloat>)->Name("ssd/fp32")->Apply(shapes);
BENCHMARK(forward<at::kBFloat16>)->Name("ssd/bf16")->Apply(shapes);
BENCHMARK(backward<at::kFloat>)->Name("ssd_backward/fp32")->Apply(shapes);
BENCHMARK(backward<at::kBFloat16>)->Name("ssd_backward/bf16")->Apply(shapes);
BENCHMARK(only_state)->Name("ssd_state/fp32")->Apply(shapes);
BENCHMARK(step)
    ->Name("ssd_step/fp32")
    ->ArgNames({"B", "H", "P", "G", "N"})
    ->Args({1, 16, 64, 2, 128})
    ->Args({32, 16, 64, 2, 128})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

} // namespace
} // namespace baton::ops
