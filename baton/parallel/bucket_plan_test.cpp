// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/bucket_plan.h"

#include <map>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

std::vector<at::Tensor> some_parameters() {
  return {
      at::zeros({7, 5}),
      at::zeros({1000}, at::kBFloat16),
      at::zeros({3, 4, 2}),
      at::zeros({130}),
      at::zeros({40, 50}, at::kBFloat16)};
}

TEST(BucketPlan, LaterParametersComeFirstAndLargeOnesAreAlone) {
  const BucketPlan plan(some_parameters(), 2, {.bucket_bytes = 4000});
  ASSERT_EQ(plan.buckets().size(), 3U);
  EXPECT_EQ(plan.buckets()[0].dtype, at::kBFloat16);
  EXPECT_EQ(plan.buckets()[0].contents.size(), 1U);
  EXPECT_EQ(plan.buckets()[1].contents[0].parameter, 1U);
  EXPECT_EQ(plan.buckets()[2].dtype, at::kFloat);
  EXPECT_EQ(plan.buckets()[2].contents[0].parameter, 3U);
  EXPECT_EQ(plan.buckets()[2].contents[1].parameter, 2U);
  EXPECT_EQ(plan.buckets()[2].contents[1].offset, 192);
  EXPECT_EQ(plan.buckets()[2].contents[2].parameter, 0U);
  EXPECT_EQ(plan.buckets()[2].contents[2].bucket, 2U);
}

TEST(BucketPlan, ClassesShareNoBucket) {
  const BucketPlan plan(some_parameters(), 2, {.classes = {0, 0, 1, 0, 2}});
  ASSERT_EQ(plan.buckets().size(), 4U);
  std::vector<std::vector<std::size_t>> found;
  for (const Bucket& bucket : plan.buckets()) {
    found.emplace_back();
    for (const BucketSlice& whole : bucket.contents) {
      found.back().push_back(whole.parameter);
    }
  }
  EXPECT_EQ(found, (std::vector<std::vector<std::size_t>>{{4}, {2}, {1}, {3, 0}}));
}

TEST(BucketPlan, RanksOwnEveryValueOnce) {
  const std::vector<at::Tensor> parameters = some_parameters();
  for (const int ranks : {1, 2, 3, 8}) {
    const BucketPlan plan(parameters, ranks, {});
    std::vector<std::int64_t> owned(parameters.size());
    for (int rank = 0; rank < ranks; ++rank) {
      std::set<std::size_t> seen;
      for (const BucketSlice& slice : plan.owned_by(rank)) {
        EXPECT_TRUE(seen.insert(slice.parameter).second);
        EXPECT_EQ(slice.begin, owned[slice.parameter]);
        owned[slice.parameter] += slice.length;
        const std::int64_t size = plan.shard_size(slice.bucket);
        EXPECT_GE(slice.offset, rank * size);
        EXPECT_LE(slice.offset + slice.length, (rank + 1) * size);
      }
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_EQ(owned[i], parameters[i].numel());
    }
  }
}

TEST(BucketPlan, CellsOfEqualSumsAreTheSameForAnyRanks) {
  const std::vector<at::Tensor> parameters = some_parameters();
  std::map<std::size_t, std::vector<std::int64_t>> first;
  for (const int ranks : {1, 2, 4, 64}) {
    const BucketPlan plan(parameters, ranks, {.same_sums = true});
    std::map<std::size_t, std::vector<std::int64_t>> cells;
    for (int rank = 0; rank < ranks; ++rank) {
      for (const SquaresCell& cell : plan.cells_of(rank)) {
        EXPECT_EQ(plan.parameter_of_place()[cell.place], cell.slice.parameter);
        const bool is_new = cells
                                .emplace(
                                    cell.place,
                                    std::vector<std::int64_t>{
                                        static_cast<std::int64_t>(cell.slice.parameter),
                                        cell.slice.begin,
                                        cell.slice.length})
                                .second;
        EXPECT_TRUE(is_new);
      }
    }
    EXPECT_EQ(cells.size(), plan.parameter_of_place().size());
    if (first.empty()) {
      first = cells;
    }
    EXPECT_EQ(cells, first);
  }
}

TEST(BucketPlan, RefusesRanksThatEqualSumsCannotHave) {
  for (const int ranks : {3, 128}) {
    EXPECT_THROW(BucketPlan(some_parameters(), ranks, {.same_sums = true}), Error);
  }
}

} // namespace
} // namespace baton::parallel
