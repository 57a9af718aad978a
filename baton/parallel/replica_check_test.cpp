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
      std::vector<std::pair<std::string, at::Tensor>> tensors{
          {"a", at::full({2, 3}, 0.5, dtype)},
          {"b", at::full({5}, -3.0, dtype)},
          {"c", at::zeros({1}, dtype)}};
      check_replicas(mesh.replicas(), tensors);
      if (mesh.rank() == 2) {
        tensors[1].second[4] = -3.0625;
        tensors[2].second[0] = -0.0;
      }
      try {
        check_replicas(mesh.replicas(), tensors);
        ADD_FAILURE();
      } catch (const RunError& error) {
        EXPECT_STREQ(
            error.what(), "the parameter 'b' of rank 2 along dp x cp is not that of rank 0 there");
      }
    }
  });
}

} // namespace
} // namespace baton::parallel
