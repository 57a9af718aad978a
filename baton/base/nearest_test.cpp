// SPDX-License-Identifier: Apache-2.0
#include "baton/base/nearest.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(Nearest, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("trian", "train"), 1U);
  EXPECT_EQ(edit_distance("same", "same"), 0U);
}

TEST(Nearest, FindsOnlyPlausibleNames) {
  const std::vector<std::string> known = {"train.lr", "train.steps", "model.width", "data"};
  EXPECT_EQ(nearest_name("train.step", known), "train.steps");
  EXPECT_EQ(nearest_name("lr", known), "train.lr");
  EXPECT_EQ(nearest_name("dta", known), "data");
  EXPECT_EQ(nearest_name("something.else", known), "");
  EXPECT_EQ(nearest_name("", known), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'x'), known), "");
  EXPECT_EQ(nearest_name("x", {}), "");
}

} // namespace
} // namespace baton
