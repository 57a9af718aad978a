// SPDX-License-Identifier: Apache-2.0
#include "baton/base/layout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(Layout, PacksLengthsAndPositions) {
  const SequenceLayout layout = make_layout(
      {{.length = 3}, {.length = 0}, {.length = 2, .first_position = 7, .final_slot = 1}});
  EXPECT_EQ(layout.num_tokens, 5);
  EXPECT_EQ(layout.longest, 3);
  EXPECT_TRUE(at::equal(layout.starts_B1, at::tensor({0, 3, 3, 5}, at::kInt)));
  EXPECT_TRUE(at::equal(layout.positions(), at::tensor({0, 1, 2, 7, 8}, at::kLong)));
  EXPECT_FALSE(layout.has_initial_states());
  EXPECT_TRUE(layout.has_final_states());
}

TEST(Layout, EmptyStream) {
  const SequenceLayout layout = make_layout_from_lengths({});
  EXPECT_EQ(layout.num_tokens, 0);
  EXPECT_EQ(layout.positions().numel(), 0);
}

TEST(Layout, RefusesNegativeLengthsAndSlots) {
  EXPECT_THROW(make_layout({{.length = -1}}), c10::Error);
  EXPECT_THROW(make_layout({{.length = 1, .initial_slot = -2}}), c10::Error);
}

TEST(Layout, ChecksStarts) {
  EXPECT_EQ(
      checked_starts(at::tensor({0, 2, 5}, at::kInt), 5), (std::vector<std::int64_t>{0, 2, 5}));
  EXPECT_THROW(checked_starts(at::tensor({0, 3, 2}, at::kInt), 2), c10::Error);
  EXPECT_THROW(checked_starts(at::tensor({0, 4}, at::kInt), 5), c10::Error);
  EXPECT_THROW(checked_starts(at::tensor({0, 5}, at::kLong), 5), c10::Error);
}

} // namespace
} // namespace baton
