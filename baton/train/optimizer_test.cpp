// SPDX-License-Identifier: Apache-2.0
#include "baton/train/optimizer.h"

#include <cmath>
#include <limits>
#include <mutex>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/parallel/flat_parameters.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::train {
namespace {

// fp64: the formula in another order of operations, over some steps.
constexpr double kTolerance64 = 1e-13;

nn::ParameterSpec spec_of(const std::string& name, std::vector<std::int64_t> shape, bool decay) {
  nn::ParameterSpec spec;
  spec.name = name;
  spec.shape = std::move(shape);
  spec.start = nn::start_uniform(-1.0, 1.0);
  spec.weight_decay = decay;
  return spec;
}

/// Two matrices that decay and a vector that does not.
void fill_store(nn::ParameterStore& store, at::ScalarType dtype) {
  store.declare(spec_of("a.weight", {7, 5}, true));
  store.declare(spec_of("a.bias", {7}, false));
  store.declare(spec_of("b.weight", {3, 4, 2}, true));
  store.initialize(17, dtype, at::kCPU);
}

std::vector<at::Tensor> some_gradients(const nn::ParameterStore& store, std::int64_t step) {
  std::vector<at::Tensor> all;
  for (const nn::Parameter& parameter : store.parameters()) {
    const RandomKey key =
        RandomKey(5).with(parameter.spec.name).with(static_cast<std::uint64_t>(step));
    all.push_back(uniform(key, parameter.spec.shape, -0.5, 0.5).to(parameter.value.scalar_type()));
  }
  return all;
}

std::vector<at::Tensor> copies(const nn::ParameterStore& store) {
  std::vector<at::Tensor> all;
  for (const nn::Parameter& parameter : store.parameters()) {
    all.push_back(parameter.value.detach().clone());
  }
  return all;
}

bool equal_values(const nn::ParameterStore& store, const std::vector<at::Tensor>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!at::equal(store.parameters()[i].value, values[i])) {
      return false;
    }
  }
  return true;
}

TEST(Optimizer, FollowsAdamwWithClippingAndExemptions) {
  nn::ParameterStore store;
  fill_store(store, at::kDouble);
  OptimizerConfig config;
  config.clip_norm = 0.7;
  config.weight_decay = 0.2;
  AdamW optimizer(store, config);
  std::vector<at::Tensor> weights = copies(store);
  std::vector<at::Tensor> means;
  std::vector<at::Tensor> squares;
  for (const at::Tensor& weight : weights) {
    means.push_back(at::zeros_like(weight));
    squares.push_back(at::zeros_like(weight));
  }
  const double grad_scale = 0.5;
  for (std::int64_t step = 1; step <= 6; ++step) {
    const double lr = 0.01 * static_cast<double>(step);
    const std::vector<at::Tensor> grads = some_gradients(store, step);
    const StepReport report = optimizer.step({.lr = lr, .grad_scale = grad_scale}, grads);
    double sum = 0.0;
    for (const at::Tensor& grad : grads) {
      sum += (grad * grad_scale).square().sum().item<double>();
    }
    const double norm = std::sqrt(sum);
    EXPECT_NEAR(report.grad_norm, norm, kTolerance64);
    const double clip = std::min(1.0, 0.7 / norm);
    EXPECT_NEAR(report.clip_scale, clip, kTolerance64);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double decay = i == 1 ? 0.0 : 0.2;
      const at::Tensor g = grads[i] * grad_scale * clip;
      means[i] = 0.9 * means[i] + 0.1 * g;
      squares[i] = 0.95 * squares[i] + 0.05 * g * g;
      const at::Tensor mean = means[i] / (1 - std::pow(0.9, step));
      const at::Tensor square = squares[i] / (1 - std::pow(0.95, step));
      weights[i] = weights[i] * (1 - lr * decay) - lr * mean / (square.sqrt() + 1e-8);
      EXPECT_LE(
          (store.parameters()[i].value - weights[i]).abs().max().item<double>(), kTolerance64);
    }
  }
  EXPECT_EQ(optimizer.num_steps(), 6);
}

TEST(Optimizer, LeavesSmallGradientsUnclipped) {
  nn::ParameterStore store;
  fill_store(store, at::kFloat);
  OptimizerConfig config;
  config.clip_norm = 1000.0;
  EXPECT_EQ(AdamW(store, config).step({.lr = 0.1}, some_gradients(store, 1)).clip_scale, 1.0);
  config.clip_norm = 0.0;
  const StepReport report =
      AdamW(store, config).step({.lr = 0.1, .grad_scale = 1e6}, some_gradients(store, 1));
  EXPECT_EQ(report.clip_scale, 1.0);
  EXPECT_GT(report.grad_norm, 1e5);
}

TEST(Optimizer, KeepsMastersBehindBf16Parameters) {
  nn::ParameterStore store;
  fill_store(store, at::kBFloat16);
  AdamW optimizer(store, {});
  ASSERT_EQ(optimizer.state().size(), 9U);
  // Single updates far below the spacing of bf16 numbers add up in the master only.
  for (std::int64_t step = 1; step <= 20; ++step) {
    optimizer.step({.lr = 2e-4}, some_gradients(store, 1));
  }
  for (const auto& [name, tensor] : optimizer.state()) {
    EXPECT_EQ(tensor.scalar_type(), at::kFloat) << name;
  }
  EXPECT_EQ(optimizer.state()[2].first, "a.weight.master");
  const at::Tensor master = optimizer.state()[2].second;
  EXPECT_TRUE(at::equal(store.at("a.weight").value, master.to(at::kBFloat16)));
  EXPECT_FALSE(at::equal(store.at("a.weight").value.to(at::kFloat), master));

  OptimizerConfig pure;
  pure.master_weights = false;
  EXPECT_EQ(AdamW(store, pure).state().size(), 6U);
}

TEST(Optimizer, TakesFp32GradientsOfBf16Parameters) {
  nn::ParameterStore store;
  fill_store(store, at::kBFloat16);
  nn::ParameterStore twin;
  fill_store(twin, at::kBFloat16);
  const std::vector<at::Tensor> grads = some_gradients(store, 1);
  std::vector<at::Tensor> wide;
  for (const at::Tensor& grad : grads) {
    wide.push_back(grad.to(at::kFloat));
  }
  AdamW(store, {}).step({.lr = 0.01}, grads);
  AdamW(twin, {}).step({.lr = 0.01}, wide);
  EXPECT_TRUE(equal_values(store, copies(twin)));
}

TEST(Optimizer, CountsOnRequest) {
  nn::ParameterStore store;
  fill_store(store, at::kDouble);
  AdamW optimizer(store, {});
  std::vector<at::Tensor> grads = some_gradients(store, 1);
  grads[1].zero_();
  grads[2].view({-1}).slice(0, 0, 5).zero_();
  const StepReport silent = optimizer.step({.lr = 0.01}, grads);
  EXPECT_FALSE(silent.zero_gradients.has_value());
  EXPECT_FALSE(silent.parameter_norm.has_value());
  const StepReport report =
      optimizer.step({.lr = 0.01, .count_zero_gradients = true, .parameter_norm = true}, grads);
  EXPECT_EQ(report.zero_gradients, 12);
  double sum = 0.0;
  for (const nn::Parameter& parameter : store.parameters()) {
    sum += parameter.value.detach().square().sum().item<double>();
  }
  EXPECT_NEAR(report.parameter_norm.value_or(0.0), std::sqrt(sum), kTolerance64);
}

TEST(Optimizer, StopsAtBadGradientsAndChangesNothing) {
  nn::ParameterStore store;
  fill_store(store, at::kFloat);
  AdamW optimizer(store, {});
  const std::vector<at::Tensor> before = copies(store);
  std::vector<at::Tensor> grads = some_gradients(store, 1);
  grads[1][3] = std::numeric_limits<float>::quiet_NaN();
  grads[2][0][0][0] = std::numeric_limits<float>::infinity();
  try {
    optimizer.step({.lr = 0.1}, grads);
    FAIL() << "a NaN went through";
  } catch (const RunError& error) {
    EXPECT_STREQ(
        error.what(), "the gradient of 'a.bias' is not finite: 1 NaN and 0 infinite of 7 values");
  }
  EXPECT_TRUE(equal_values(store, before));
  EXPECT_EQ(optimizer.num_steps(), 0);
}

TEST(Optimizer, ResumesToTheBit) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    nn::ParameterStore straight;
    fill_store(straight, dtype);
    AdamW optimizer(straight, {});
    nn::ParameterStore resumed;
    fill_store(resumed, dtype);
    NamedTensors saved;
    for (std::int64_t step = 1; step <= 6; ++step) {
      optimizer.step({.lr = 0.01}, some_gradients(straight, step));
      if (step == 3) {
        for (const auto& [name, tensor] : optimizer.state()) {
          saved.emplace_back(name, tensor.clone());
        }
        const std::vector<at::Tensor> values = copies(straight);
        for (std::size_t i = 0; i < values.size(); ++i) {
          resumed.parameters()[i].value.detach().copy_(values[i]);
        }
      }
    }
    AdamW second(resumed, {});
    std::reverse(saved.begin(), saved.end());
    second.load(saved, 3);
    for (std::int64_t step = 4; step <= 6; ++step) {
      second.step({.lr = 0.01}, some_gradients(resumed, step));
    }
    EXPECT_TRUE(equal_values(straight, copies(resumed)));
    EXPECT_EQ(second.num_steps(), 6);
  }
}

TEST(Optimizer, RefusesStatesThatDoNotFit) {
  nn::ParameterStore store;
  fill_store(store, at::kFloat);
  AdamW optimizer(store, {});
  const auto message = [&](const NamedTensors& state) -> std::string {
    try {
      optimizer.load(state, 1);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "";
  };
  NamedTensors state = optimizer.state();
  state.pop_back();
  EXPECT_EQ(message(state), "the saved optimizer state lacks 'b.weight.exp_avg_sq'");
  state = optimizer.state();
  state.emplace_back("c.weight.exp_avg", at::zeros({1}));
  EXPECT_EQ(message(state), "the saved optimizer state holds 'c.weight.exp_avg', which is unknown");
  state = optimizer.state();
  state[0].second = at::zeros({5, 7});
  EXPECT_EQ(
      message(state),
      "the saved optimizer state's 'a.weight.exp_avg' is Float [5, 7], expected Float [7, 5]");
  EXPECT_THROW(optimizer.load(optimizer.state(), -1), c10::Error);
  EXPECT_EQ(optimizer.num_steps(), 0);
}

TEST(Optimizer, GathersAndClearsGradients) {
  nn::ParameterStore store;
  fill_store(store, at::kFloat);
  EXPECT_THROW(gradients(store), c10::Error);
  at::Tensor loss = at::zeros({});
  for (const nn::Parameter& parameter : store.parameters()) {
    loss = loss + parameter.value.sum();
  }
  loss.backward();
  EXPECT_EQ(gradients(store).size(), 3U);
  EXPECT_TRUE(at::equal(gradients(store)[1], at::ones({7})));
  clear_gradients(store);
  EXPECT_THROW(gradients(store), c10::Error);
}

TEST(Optimizer, TakesSquaresThatWereReadBefore) {
  nn::ParameterStore one;
  nn::ParameterStore other;
  fill_store(one, at::kBFloat16);
  fill_store(other, at::kBFloat16);
  const std::vector<at::Tensor> grads = some_gradients(one, 1);
  AdamW straight(one, {});
  AdamW told(other, {});
  const double norm = straight.step({.lr = 0.1}, grads).grad_norm;
  EXPECT_EQ(told.step({.lr = 0.1}, grads, norm).grad_norm, norm);
  EXPECT_TRUE(equal_values(other, copies(one)));
}

TEST(Optimizer, LoadingItsKernelsChangesNothing) {
  nn::ParameterStore store;
  fill_store(store, at::kBFloat16);
  AdamW optimizer(store, {});
  optimizer.step({.lr = 0.1}, some_gradients(store, 1));
  const std::vector<at::Tensor> weights = copies(store);
  std::vector<at::Tensor> state;
  for (const auto& [name, tensor] : optimizer.state()) {
    state.push_back(tensor.clone());
  }
  optimizer.load_kernels();
  EXPECT_TRUE(equal_values(store, weights));
  for (std::size_t i = 0; i < state.size(); ++i) {
    EXPECT_TRUE(at::equal(optimizer.state()[i].second, state[i])) << optimizer.state()[i].first;
  }
  EXPECT_EQ(optimizer.num_steps(), 1);
}

TEST(Optimizer, RefusesBadRequests) {
  nn::ParameterStore store;
  fill_store(store, at::kFloat);
  OptimizerConfig config;
  config.beta2 = 1.0;
  EXPECT_THROW(AdamW(store, config), c10::Error);
  config = {};
  config.clip_norm = -1.0;
  EXPECT_THROW(AdamW(store, config), c10::Error);
  const std::vector<at::Tensor> one{at::zeros({7, 5})};
  EXPECT_THROW(AdamW(store, {}).step({.lr = 0.1}, one), c10::Error);
}

std::vector<at::Tensor> values_of(const nn::ParameterStore& store) {
  std::vector<at::Tensor> values;
  for (const nn::Parameter& parameter : store.parameters()) {
    values.push_back(parameter.value);
  }
  return values;
}

/// The part of whole gradients that this rank owns.
std::vector<at::Tensor> owned_part(const AdamW& optimizer, const std::vector<at::Tensor>& whole) {
  std::vector<at::Tensor> parts;
  for (const parallel::BucketSlice& slice : optimizer.owned()) {
    const at::Tensor& gradient = whole[slice.parameter];
    parts.push_back(
        slice.length == gradient.numel() ? gradient
                                         : gradient.flatten().narrow(0, slice.begin, slice.length));
  }
  return parts;
}

// Norms are sums of fp64 squares in another order, and clip by their ratio in fp32.
constexpr double kShardTolerance = 1e-6;

TEST(Optimizer, ShardsGiveWhatOneRankGives) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    nn::ParameterStore straight;
    fill_store(straight, dtype);
    AdamW one(straight, {});
    std::vector<StepReport> reports;
    for (std::int64_t step = 1; step <= 3; ++step) {
      reports.push_back(one.step({.lr = 0.01}, some_gradients(straight, step)));
    }
    std::mutex mutex;
    parallel::run_ranks({{1, 1, 3, 1}}, [&](const parallel::Mesh& mesh) {
      nn::ParameterStore store;
      fill_store(store, dtype);
      const std::vector<at::Tensor> values = values_of(store);
      const parallel::BucketPlan plan(values, 3, {});
      parallel::FlatParameters flat(values, plan, mesh.replicas());
      AdamW shard(store, {}, {plan.owned_by(mesh.rank()), plan.buckets().size(), mesh.replicas()});
      for (std::int64_t step = 1; step <= 3; ++step) {
        const std::vector<at::Tensor> whole = some_gradients(store, step);
        const StepReport report = shard.step(
            {.lr = 0.01, .count_zero_gradients = true},
            owned_part(shard, whole),
            reports[static_cast<std::size_t>(step - 1)].grad_norm,
            [&](std::size_t bucket) { flat.start_gather(bucket); });
        flat.wait();
        EXPECT_EQ(report.grad_norm, reports[static_cast<std::size_t>(step - 1)].grad_norm);
        EXPECT_EQ(report.zero_gradients, 0);
      }
      const std::lock_guard lock(mutex);
      EXPECT_TRUE(equal_values(store, copies(straight))) << dtype;
      std::map<std::pair<std::size_t, std::string>, at::Tensor> all;
      for (const OptimizerState& state : one.states()) {
        all[{state.parameter, state.kind}] = state.values.flatten();
      }
      for (const OptimizerState& state : shard.states()) {
        const at::Tensor part =
            all.at({state.parameter, state.kind}).narrow(0, state.begin, state.values.numel());
        EXPECT_TRUE(at::equal(part, state.values.flatten())) << state.kind;
      }
    });
  }
}

TEST(Optimizer, AShardFindsNormAndBadValuesOfAll) {
  parallel::run_ranks({{1, 1, 3, 1}}, [&](const parallel::Mesh& mesh) {
    nn::ParameterStore store;
    fill_store(store, at::kFloat);
    const parallel::BucketPlan plan(values_of(store), 3, {});
    AdamW shard(store, {}, {plan.owned_by(mesh.rank()), plan.buckets().size(), mesh.replicas()});
    std::vector<at::Tensor> whole = some_gradients(store, 1);
    const double norm = std::sqrt(squares_of(whole).sum().item<double>());
    const StepReport report = shard.step({.lr = 0.1}, owned_part(shard, whole));
    EXPECT_NEAR(report.grad_norm, norm, kShardTolerance);
    whole[0][0][0] = std::numeric_limits<float>::quiet_NaN();
    whole[0][6][4] = std::numeric_limits<float>::quiet_NaN();
    try {
      shard.step({.lr = 0.1}, owned_part(shard, whole));
      ADD_FAILURE() << "a NaN went through";
    } catch (const RunError& error) {
      EXPECT_STREQ(
          error.what(),
          "the gradient of 'a.weight' is not finite: 2 NaN and 0 infinite of 35 values");
    }
  });
}

TEST(Optimizer, GivesEqualBitsForAnyThreadCount) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> first;
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    nn::ParameterStore store;
    store.declare(spec_of("wide.weight", {300, 301}, true));
    store.initialize(3, at::kFloat, at::kCPU);
    AdamW optimizer(store, {});
    for (std::int64_t step = 1; step <= 3; ++step) {
      optimizer.step({.lr = 0.01}, some_gradients(store, step));
    }
    if (first.empty()) {
      first = copies(store);
    }
    EXPECT_TRUE(equal_values(store, first));
  }
  at::set_num_threads(threads);
}

} // namespace
} // namespace baton::train
