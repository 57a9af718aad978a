// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/replica_check.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::parallel {
namespace {

TEST(ReplicaCheck, NamesTheFirstTensorThatDiffersByABit) {
  run_ranks({{1, 1, 3, 1}}, [](const Mesh& mesh) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kDouble}) {
      const std::vector<Copy> copies{
          {"a", at::full({2, 3}, 0.5, dtype), 3},
          {"b", at::full({5}, -3.0, dtype), 3},
          {"c", at::zeros({1}, dtype), 3}};
      check_copies(mesh.replicas(), copies);
      if (mesh.rank() == 2) {
        copies[1].values[4] = -3.0625;
        copies[2].values[0] = -0.0;
      }
      try {
        check_copies(mesh.replicas(), copies);
        ADD_FAILURE();
      } catch (const RunError& error) {
        EXPECT_STREQ(
            error.what(), "the parameter 'b' of rank 2 along dp x cp is not that of rank 0 there");
      }
    }
  });
}

TEST(ReplicaCheck, NeighboursHoldTheSame) {
  run_ranks({{4, 1, 1, 1}}, [](const Mesh& mesh) {
    const Group& ranks = mesh.along(Axis::kTensor);
    const at::Tensor values = at::full({3}, mesh.rank() / 2, at::kFloat);
    check_copies(ranks, {{"a", values, 2}, {"b", at::full({2}, mesh.rank()), 1}});
    if (mesh.rank() == 3) {
      values[1] = 5.0;
    }
    try {
      check_copies(ranks, {{"a", values, 2}});
      ADD_FAILURE();
    } catch (const RunError& error) {
      EXPECT_STREQ(
          error.what(), "the parameter 'a' of rank 3 along tp is not that of rank 2 there");
    }
  });
}

} // namespace
} // namespace baton::parallel
