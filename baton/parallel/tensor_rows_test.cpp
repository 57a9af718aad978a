// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/tensor_rows.h"

#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::parallel {
namespace {

TEST(TensorRows, SharesFollowEachOtherAndDifferByOneAtMost) {
  for (const std::int64_t count : {0, 1, 7, 8, 9, 131}) {
    for (const int ranks : {1, 2, 3, 8}) {
      std::int64_t end = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Share share = even_share(count, rank, ranks);
        EXPECT_EQ(share.first, end);
        EXPECT_GE(share.count, count / ranks);
        EXPECT_LE(share.count, (count + ranks - 1) / ranks);
        end = share.first + share.count;
      }
      EXPECT_EQ(end, count);
    }
  }
}

at::Tensor random_rows(std::uint64_t key, std::int64_t rows) {
  return uniform(RandomKey(key), {rows, 3}, -1.0, 1.0);
}

TEST(TensorRows, GatherAndScatterAreEachOthersGradient) {
  for (const std::int64_t rows : {0, 1, 6, 7, 8}) {
    run_ranks({{3, 1, 1, 1}}, [&](const Mesh& mesh) {
      const Group& group = mesh.along(Axis::kTensor);
      const Share own = even_share(rows, group.rank(), group.size());
      const at::Tensor all = random_rows(1, rows);
      const at::Tensor own_rows = all.narrow(0, own.first, own.count).detach().clone();
      own_rows.set_requires_grad(true);
      const at::Tensor gathered = gather_rows(own_rows, rows, group);
      EXPECT_TRUE(at::equal(gathered.detach(), all));

      const auto addends_of = [&](int rank) { return random_rows(10 + rank, rows); };
      const at::Tensor addends = addends_of(group.rank()).set_requires_grad(true);
      const at::Tensor sum = addends_of(0) + addends_of(1) + addends_of(2);
      const at::Tensor scattered = scatter_rows(addends, group);
      EXPECT_TRUE(at::allclose(scattered.detach(), sum.narrow(0, own.first, own.count)));

      (gathered * addends.detach()).sum().backward();
      EXPECT_TRUE(at::allclose(own_rows.grad(), sum.narrow(0, own.first, own.count)));
      (scattered * own_rows.detach()).sum().backward();
      EXPECT_TRUE(at::equal(addends.grad(), all));
    });
  }
}

// Three addends whose sum in bf16 depends on rounding on the way.
TEST(TensorRows, AddsBf16InFp32) {
  run_ranks({{3, 1, 1, 1}}, [](const Mesh& mesh) {
    const Group& group = mesh.along(Axis::kTensor);
    const double addend = group.rank() == 0 ? 256.0 : 0.75;
    const at::Tensor sum = scatter_rows(at::full({3, 1}, addend, at::kBFloat16), group);
    EXPECT_EQ(sum.item<float>(), 258.0F); // of 257.5; each on its own would be lost
    EXPECT_EQ(sum.scalar_type(), at::kBFloat16);
  });
}

TEST(TensorRows, AloneTheyAreTheirArgument) {
  const at::Tensor rows = random_rows(1, 4);
  EXPECT_TRUE(gather_rows(rows, 4, {}).is_same(rows));
  EXPECT_TRUE(scatter_rows(rows, {}).is_same(rows));
}

} // namespace
} // namespace baton::parallel
