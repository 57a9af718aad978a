// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/kernel_tuner.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "baton/jit/kernel.h"

namespace baton::ops {
namespace {

constexpr double kWorthwhile = 1.03;
constexpr double kSecondsOfRound = 4e-3;
constexpr int kRounds = 5;
// Inputs take turns, so that an L2 cache does not hold them.
constexpr std::int64_t kRotatedBytes = 200 << 20;
constexpr double kEps = 1e-5;

using Stack = torch::jit::Stack;

/// An operator with several sets of inputs.
struct Work {
  c10::OperatorHandle op;
  std::vector<Stack> sets;
};

/// The keys of a class, what they may be, and the works that they matter to.
struct Tunable {
  std::string_view key;
  std::vector<std::int64_t> candidates;
  std::vector<std::string_view> works;
};

const std::vector<Tunable>& tunables() {
  static const std::vector<Tunable> all = {
      {"norm.block_threads", {64, 128, 256, 512}, {"rms_norm", "gated_norm"}},
      {"norm.gradient_block_threads", {64, 128, 256}, {"rms_norm_backward", "gated_norm_backward"}},
      {"norm.gradient_threads",
       {33792, 50688, 67584, 84480, 101376, 135168},
       {"rms_norm_backward", "gated_norm_backward"}},
      {"conv.longest_run", {32, 64, 96, 128}, {"causal_conv1d", "causal_conv1d, wide"}},
      {"conv.warps", {4096, 8192, 12288, 16384}, {"causal_conv1d", "causal_conv1d, wide"}},
      {"conv.gradient_longest_run",
       {64, 96, 128, 192, 256},
       {"causal_conv1d_backward", "causal_conv1d_backward, wide"}},
      {"conv.gradient_warps",
       {2048, 4096, 8192},
       {"causal_conv1d_backward", "causal_conv1d_backward, wide"}},
      {"rotary.heads", {1, 2, 4, 8, 16}, {"rotary"}},
  };
  return all;
}

/// Makes the inputs of a work, at the sizes of a class.
class Inputs {
 public:
  Inputs(c10::Device device, bool large)
      : options_(at::TensorOptions(device).dtype(at::kBFloat16)), large_(large) {}

  /// Of the operator that a work's name begins with.
  Stack of(std::string_view work) const {
    const bool wide = work.ends_with("wide");
    if (work.starts_with("causal_conv1d")) {
      return convolution(work.starts_with("causal_conv1d_backward"), wide);
    }
    if (work.starts_with("rotary")) {
      return rotary();
    }
    const bool backward = work.ends_with("backward");
    return work.starts_with("gated_norm") ? gated_norm(backward) : rms_norm(backward);
  }

 private:
  at::Tensor randn(at::IntArrayRef sizes) const { return at::randn(sizes, options_); }

  Stack rms_norm(bool backward) const {
    const std::int64_t rows = large_ ? 65536 : 8192;
    const std::int64_t channels = 2048;
    Stack stack;
    if (backward) {
      stack.emplace_back(randn({rows, channels}));
    }
    stack.emplace_back(randn({rows, channels}));
    stack.emplace_back(randn({channels}));
    stack.emplace_back(kEps);
    return stack;
  }

  Stack gated_norm(bool backward) const {
    const std::int64_t rows = large_ ? 8192 : 2048;
    const std::int64_t channels = 8192;
    Stack stack;
    for (int i = 0; i < (backward ? 3 : 2); ++i) {
      stack.emplace_back(randn({rows, channels}));
    }
    stack.emplace_back(randn({channels}));
    stack.emplace_back(kEps);
    stack.emplace_back(channels / 8);
    stack.emplace_back(true);
    return stack;
  }

  Stack convolution(bool backward, bool wide) const {
    const std::int64_t channels = wide ? 10240 : 6144;
    const std::int64_t tokens = (large_ ? 8192 : 2048) * (wide ? 1 : 2);
    const at::Tensor starts = at::tensor({std::int64_t{0}, tokens}, at::kInt);
    Stack stack;
    if (backward) {
      stack.emplace_back(randn({tokens, channels}));
      stack.emplace_back();
    }
    stack.emplace_back(randn({tokens, channels}));
    stack.emplace_back(randn({channels, 4}));
    stack.emplace_back(randn({channels}));
    stack.emplace_back(starts.to(options_.device()));
    stack.emplace_back();
    stack.emplace_back();
    stack.emplace_back(true);
    return stack;
  }

  Stack rotary() const {
    const std::int64_t tokens = large_ ? 65536 : 8192;
    const at::TensorOptions fp32 = options_.dtype(at::kFloat);
    return {
        randn({tokens, 16, 128}),
        at::arange(tokens, options_.dtype(at::kLong)),
        at::rand({64}, fp32),
        1.0,
        false};
  }

  at::TensorOptions options_;
  bool large_;
};

std::int64_t bytes_of(const Stack& stack) {
  std::int64_t bytes = 0;
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      bytes += static_cast<std::int64_t>(value.toTensor().nbytes());
    }
  }
  return bytes;
}

Work make_work(std::string_view name, const Inputs& inputs) {
  const std::string op(name.substr(0, name.find(',')));
  Work work{c10::Dispatcher::singleton().findSchemaOrThrow(("baton::" + op).c_str(), ""), {}};
  work.sets.push_back(inputs.of(name));
  const std::int64_t count = kRotatedBytes / bytes_of(work.sets.front()) + 1;
  while (static_cast<std::int64_t>(work.sets.size()) < count) {
    work.sets.push_back(inputs.of(name));
  }
  return work;
}

/// Times works on one device.
class Stopwatch {
 public:
  explicit Stopwatch(c10::Device device) : guard_(device.type()), device_(device) {}

  /// Seconds of a call, the median of some rounds.
  double seconds(const Work& work) const {
    const auto sets = static_cast<int>(work.sets.size());
    run(work, 2 * sets); // compiles, and fills the allocator's memory
    const double once = run(work, sets) / sets;
    const int calls = std::max(1, static_cast<int>(kSecondsOfRound / once));
    std::array<double, kRounds> rounds{};
    for (double& round : rounds) {
      round = run(work, calls) / calls;
    }
    std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
    return rounds[kRounds / 2];
  }

 private:
  /// Seconds of so many calls.
  double run(const Work& work, int calls) const {
    const c10::Stream stream = guard_.getStream(device_);
    guard_.synchronizeStream(stream);
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) {
      Stack stack = work.sets[static_cast<std::size_t>(i) % work.sets.size()];
      work.op.callBoxed(stack);
    }
    guard_.synchronizeStream(stream);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }

  c10::impl::VirtualGuardImpl guard_;
  c10::Device device_;
};

/// The mean logarithm of the works' seconds under a table.
double score(const Tuning& tuning, const std::vector<Work>& works, const Stopwatch& watch) {
  const TuningOverride held(tuning);
  double sum = 0;
  for (const Work& work : works) {
    sum += std::log(watch.seconds(work));
  }
  return sum / static_cast<double>(works.size());
}

TunedKey tune(
    const std::string& key,
    const Tunable& tunable,
    Tuning& tuning,
    const Inputs& inputs,
    const Stopwatch& watch) {
  std::int64_t* value = nullptr;
  for (const ConfigField& field : config_fields(tuning)) {
    if (field.key == key) {
      value = std::get<std::int64_t*>(field.value);
    }
  }
  TORCH_INTERNAL_ASSERT(value != nullptr, "no key ", key, " in the table");
  std::vector<Work> works;
  for (const std::string_view name : tunable.works) {
    works.push_back(make_work(name, inputs));
  }
  TunedKey found{key, *value, *value, 1};
  const double before = score(tuning, works, watch);
  double least = before - std::log(kWorthwhile);
  for (const std::int64_t candidate : tunable.candidates) {
    *value = candidate;
    const double of_candidate = candidate == found.before ? before : score(tuning, works, watch);
    found.worst = std::min(found.worst, std::exp(before - of_candidate));
    if (of_candidate < least) {
      least = of_candidate;
      found.value = candidate;
      found.gain = std::exp(before - of_candidate);
    }
  }
  *value = found.value;
  return found;
}

} // namespace

std::string arch_of(c10::Device device) {
  const at::Tensor there = at::empty({1}, device); // makes the device the driver's current one
  return jit::current_arch();
}

Tuning tune_kernels(
    Tuning tuning,
    c10::Device device,
    const std::function<void(const TunedKey&)>& report) {
  const at::NoGradGuard no_gradients;
  const Stopwatch watch(device);
  for (const bool large : {false, true}) {
    const Inputs inputs(device, large);
    for (const Tunable& tunable : tunables()) {
      const std::string key = (large ? "large." : "small.") + std::string(tunable.key);
      report(tune(key, tunable, tuning, inputs, watch));
    }
  }
  return tuning;
}

} // namespace baton::ops
