// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/write_slots.h"

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

at::Tensor slots(const std::vector<int>& values) {
  return at::tensor(values, at::kInt);
}

TEST(WriteSlots, StoresInTheNamedSlotsAndConverts) {
  at::manual_seed(1);
  for (const at::ScalarType from : kActivationTypes) {
    for (const at::ScalarType to : kActivationTypes) {
      const at::Tensor cache = at::zeros({4, 2, 3}, to);
      const at::Tensor values = at::randn({3, 2, 3}, at::kDouble).to(from);
      write_slots_(cache, slots({2, -1, 0}), values);
      EXPECT_TRUE(at::equal(cache[2], values[0].to(to)));
      EXPECT_TRUE(at::equal(cache[0], values[2].to(to)));
      EXPECT_EQ(cache[1].count_nonzero().item<std::int64_t>(), 0);
      EXPECT_EQ(cache[3].count_nonzero().item<std::int64_t>(), 0);
    }
  }
}

TEST(WriteSlots, TakesEmptyBatchesAndStridedCaches) {
  at::manual_seed(1);
  const at::Tensor cache = at::ones({2, 5});
  write_slots_(cache, slots({}), at::empty({0, 5}));
  EXPECT_TRUE(at::equal(cache, at::ones({2, 5})));
  const at::Tensor narrow = at::ones({2, 5, 0});
  write_slots_(narrow, slots({1}), at::empty({1, 5, 0}));
  const at::Tensor strided = at::zeros({5, 2}).t();
  write_slots_(strided, slots({1}), at::ones({1, 5}));
  EXPECT_EQ(strided[1].sum().item<float>(), 5.0F);
}

TEST(WriteSlots, RefusesWhatDoesNotFit) {
  at::manual_seed(1);
  const at::Tensor cache = at::zeros({2, 3});
  EXPECT_THROW(write_slots_(cache, slots({2}), at::ones({1, 3})), c10::Error);
  EXPECT_THROW(write_slots_(cache, slots({-2}), at::ones({1, 3})), c10::Error);
  EXPECT_THROW(write_slots_(cache, slots({1, 1}), at::ones({2, 3})), c10::Error);
  EXPECT_THROW(write_slots_(cache, slots({0, 1}), at::ones({1, 3})), c10::Error);
  EXPECT_THROW(write_slots_(cache, slots({0}), at::ones({1, 4})), c10::Error);
  EXPECT_THROW(write_slots_(cache, slots({0}).to(at::kLong), at::ones({1, 3})), c10::Error);
  const at::Tensor wants_gradient = at::ones({1, 3}).requires_grad_(true);
  EXPECT_THROW(write_slots_(cache, slots({0}), wants_gradient), c10::Error);
  EXPECT_EQ(cache.count_nonzero().item<std::int64_t>(), 0) << "nothing was written";
}

} // namespace
} // namespace baton::ops
