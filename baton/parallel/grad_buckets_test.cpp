// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/grad_buckets.h"

#include <mutex>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/parallel/flat_parameters.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::parallel {
namespace {

// Sums of up to 16 numbers of at most 1 in fp32.
constexpr double kTolerance = 16.0 * 16.0 * 6e-8;

const std::vector<std::vector<std::int64_t>> kShapes{{7, 5}, {130}, {3, 4, 2}, {}, {90, 70}};

std::vector<at::Tensor> make_parameters(at::ScalarType dtype) {
  std::vector<at::Tensor> parameters;
  for (const std::vector<std::int64_t>& shape : kShapes) {
    parameters.push_back(at::ones(shape, dtype).set_requires_grad(true));
  }
  return parameters;
}

std::vector<std::string> make_names() {
  return {"a", "b", "c", "d", "e"};
}

at::Tensor gradient_of(std::size_t parameter, std::int64_t microbatch, at::ScalarType dtype) {
  const RandomKey key = RandomKey(3).with(parameter).with(static_cast<std::uint64_t>(microbatch));
  return uniform(key, kShapes[parameter], -1.0, 1.0).to(dtype);
}

/// Backward passes of a function with those gradients.
void run_backward(
    GradBuckets& buckets,
    const std::vector<at::Tensor>& parameters,
    std::int64_t first,
    std::int64_t count) {
  buckets.begin_step(count);
  for (std::int64_t m = first; m < first + count; ++m) {
    at::Tensor loss = at::zeros({});
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const at::ScalarType dtype = parameters[i].scalar_type();
      loss = loss + (parameters[i] * gradient_of(i, m, dtype)).sum();
    }
    loss.backward();
  }
  buckets.finish();
}

/// The whole gradients of a step on a mesh, put together from the shards, one step after another.
std::vector<at::Tensor> summed_on(
    const MeshShape& shape,
    std::int64_t microbatches,
    at::ScalarType dtype,
    const BucketConfig& config) {
  std::vector<at::Tensor> whole;
  for (const at::Tensor& parameter : make_parameters(dtype)) {
    whole.push_back(at::full({parameter.numel()}, 1e6, at::kDouble));
  }
  std::mutex mutex;
  run_ranks(shape, [&](const Mesh& mesh) {
    const std::vector<at::Tensor> parameters = make_parameters(dtype);
    GradBuckets buckets(parameters, make_names(), mesh, config);
    const std::int64_t own = microbatches / shape.along(Axis::kData);
    for (int step = 0; step < 2; ++step) {
      run_backward(buckets, parameters, own * mesh.coordinate(Axis::kData), own);
    }
    const std::lock_guard lock(mutex);
    for (const BucketSlice& slice : buckets.plan().owned_by(mesh.replicas().rank())) {
      whole[slice.parameter]
          .narrow(0, slice.begin, slice.length)
          .copy_(buckets.gradient(slice).flatten());
    }
  });
  return whole;
}

TEST(GradBuckets, SumsOverMicrobatchesAndRanks) {
  constexpr std::int64_t kMicrobatches = 8;
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int dp : {1, 2, 4}) {
      for (const bool same : {false, true}) {
        const std::vector<at::Tensor> sums = summed_on(
            {{1, 1, dp, 1}}, kMicrobatches, dtype, {.bucket_bytes = 700, .same_sums = same});
        for (std::size_t i = 0; i < sums.size(); ++i) {
          at::Tensor expected = at::zeros({sums[i].numel()}, at::kDouble);
          for (std::int64_t m = 0; m < kMicrobatches; ++m) {
            expected += gradient_of(i, m, dtype).to(at::kDouble).flatten();
          }
          EXPECT_LE((sums[i] - expected).abs().max().item<double>(), kTolerance);
        }
      }
    }
  }
}

TEST(GradBuckets, ATreeGivesEqualBitsForAnyDataParallelRanks) {
  const BucketConfig config{.bucket_bytes = 700, .same_sums = true};
  const std::vector<at::Tensor> one = summed_on({{1, 1, 1, 1}}, 8, at::kFloat, config);
  for (const int dp : {2, 4, 8}) {
    const std::vector<at::Tensor> many = summed_on({{1, 1, dp, 1}}, 8, at::kFloat, config);
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_TRUE(at::equal(one[i], many[i])) << dp << " " << i;
    }
  }
  // The tree, written out.
  const auto leaf = [](std::int64_t m) { return gradient_of(4, m, at::kFloat); };
  const at::Tensor left = (leaf(0) + leaf(1)) + (leaf(2) + leaf(3));
  const at::Tensor right = (leaf(4) + leaf(5)) + (leaf(6) + leaf(7));
  EXPECT_TRUE(at::equal(one[4], (left + right).flatten().to(at::kDouble)));
}

TEST(GradBuckets, ATreeWithContextRanksIsTheSameForAnyDataParallelRanks) {
  const BucketConfig config{.same_sums = true};
  const std::vector<at::Tensor> one = summed_on({{1, 2, 1, 1}}, 4, at::kFloat, config);
  const std::vector<at::Tensor> two = summed_on({{1, 2, 2, 1}}, 4, at::kFloat, config);
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(at::equal(one[i], two[i])) << i;
  }
}

TEST(GradBuckets, OneRankLeavesOneMicrobatchWhereItIs) {
  const std::vector<at::Tensor> parameters = make_parameters(at::kBFloat16);
  const Mesh mesh;
  GradBuckets buckets(parameters, make_names(), mesh, {});
  run_backward(buckets, parameters, 0, 1);
  EXPECT_EQ(buckets.num_bytes(), 0);
  for (const BucketSlice& slice : buckets.plan().owned_by(0)) {
    EXPECT_TRUE(buckets.gradient(slice).is_same(parameters[slice.parameter].grad()));
  }
  run_backward(buckets, parameters, 0, 2);
  EXPECT_GT(buckets.num_bytes(), 0);
  for (const BucketSlice& slice : buckets.plan().owned_by(0)) {
    EXPECT_FALSE(parameters[slice.parameter].grad().defined());
    EXPECT_EQ(buckets.gradient(slice).scalar_type(), at::kFloat);
  }
}

TEST(GradBuckets, NamesAParameterWithoutAGradient) {
  const std::vector<at::Tensor> parameters = make_parameters(at::kFloat);
  const Mesh mesh;
  GradBuckets buckets(parameters, make_names(), mesh, {});
  buckets.begin_step(1);
  (parameters[0].sum() + parameters[2].sum()).backward();
  try {
    buckets.finish();
    FAIL();
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("parameter 'b' has no gradient"), std::string::npos);
  }
}

TEST(GradBuckets, ATreeTakesPowersOfTwo) {
  const Mesh mesh;
  GradBuckets buckets(make_parameters(at::kFloat), make_names(), mesh, {.same_sums = true});
  EXPECT_THROW(buckets.begin_step(3), Error);
}

TEST(GradBuckets, SendsEachGradientOnce) {
  run_ranks({{1, 1, 4, 1}}, [](const Mesh& mesh) {
    const std::vector<at::Tensor> parameters = make_parameters(at::kFloat);
    GradBuckets buckets(parameters, make_names(), mesh, {});
    run_backward(buckets, parameters, 8 * mesh.rank(), 8);
    const std::int64_t bytes = buckets.plan().buckets()[0].size * 4;
    EXPECT_EQ(mesh.replicas().traffic().total(), bytes * 3 / 4);
  });
}

TEST(FlatParameters, GiveEachRanksShardToAll) {
  run_ranks({{1, 1, 3, 1}}, [](const Mesh& mesh) {
    const std::vector<at::Tensor> parameters = make_parameters(at::kFloat);
    const at::Tensor alias = parameters[4]; // as a layer holds it
    const BucketPlan plan(parameters, 3, {.bucket_bytes = 700});
    FlatParameters flat(parameters, plan, mesh.replicas());
    EXPECT_TRUE(at::equal(alias, at::ones({90, 70})));
    EXPECT_TRUE(alias.is_leaf() && alias.requires_grad());
    for (const BucketSlice& slice : plan.owned_by(mesh.rank())) {
      parameters[slice.parameter]
          .detach()
          .view({-1})
          .narrow(0, slice.begin, slice.length)
          .fill_(mesh.rank() + 2);
    }
    for (std::size_t i = 0; i < plan.buckets().size(); ++i) {
      flat.start_gather(i);
    }
    flat.wait();
    for (int rank = 0; rank < 3; ++rank) {
      for (const BucketSlice& slice : plan.owned_by(rank)) {
        const at::Tensor part =
            parameters[slice.parameter].detach().flatten().narrow(0, slice.begin, slice.length);
        EXPECT_TRUE(part.eq(rank + 2).all().item<bool>());
      }
    }
    EXPECT_EQ(alias.detach().min().item<double>(), parameters[4].min().item<double>());
  });
}

} // namespace
} // namespace baton::parallel
