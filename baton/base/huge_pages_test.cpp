// SPDX-License-Identifier: Apache-2.0
#include "baton/base/huge_pages.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(HugePages, LeaveAllValuesAsTheyAre) {
  for (const std::int64_t size : {0, 1, 1000, 3000001}) {
    const at::Tensor values = at::randn({size});
    const at::Tensor neighbour = at::randn({size});
    const at::Tensor before = at::cat({values, neighbour});
    for (int time = 0; time < 2; ++time) { // the second time they are there
      put_on_huge_pages(values);
      EXPECT_TRUE(at::equal(at::cat({values, neighbour}), before));
    }
  }
  put_on_huge_pages(at::empty({5}, at::kMeta));
}

} // namespace
} // namespace baton
