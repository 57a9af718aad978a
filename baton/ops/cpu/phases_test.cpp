// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/phases.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace baton::ops::cpu {
namespace {

/// Phases that note each item, and whether all items of the phases before were done by then.
class Notes {
 public:
  explicit Notes(const std::vector<std::int64_t>& counts) : done_(counts.size()) {
    for (std::size_t phase = 0; phase < counts.size(); ++phase) {
      items_.emplace_back(counts[phase]);
      phases_.push_back(
          {.count = counts[phase], .work = [this, phase](std::int64_t item, const void*) {
             for (std::size_t before = 0; before < phase; ++before) {
               early_ += done_[before] != phases_[before].count ? 1 : 0;
             }
             ++items_[phase][item];
             ++done_[phase];
           }});
    }
  }

  void expect_order() {
    run_phases(phases_);
    EXPECT_EQ(early_, 0);
    for (const auto& items : items_) {
      for (const auto& times : items) {
        EXPECT_EQ(times, 1);
      }
    }
  }

 private:
  std::vector<Phase> phases_;
  std::vector<std::vector<std::atomic<int>>> items_;
  std::vector<std::atomic<std::int64_t>> done_;
  std::atomic<int> early_{0};
};

class Phases : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { at::set_num_threads(GetParam()); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

TEST_P(Phases, RunInOrderAndEachItemOnce) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    Notes({1, 20, 1, 3, 0, 7, 1}).expect_order();
  }
  Notes({}).expect_order();
  Notes({0}).expect_order();
}

TEST_P(Phases, RunInsideAParallelRegion) {
  at::parallel_for(0, 2, 1, [](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      Notes({2, 1, 5}).expect_order();
    }
  });
}

TEST_P(Phases, PrepareScratchFromWhatThePhasesBeforeMade) {
  constexpr std::int64_t kCount = 40;
  std::vector<std::int64_t> made(kCount);
  std::vector<std::int64_t> sums(kCount);
  std::atomic<int> unaligned{0};
  const std::vector<Phase> phases{
      {.count = kCount, .work = [&](std::int64_t item, const void*) { made[item] = item + 1; }},
      {.count = kCount,
       .work =
           [&](std::int64_t item, const void* scratch) {
             const auto* copy = static_cast<const std::int64_t*>(scratch);
             sums[item] = std::accumulate(copy, copy + item + 1, std::int64_t{0});
           },
       .prepare =
           [&](void* scratch) {
             unaligned += reinterpret_cast<std::uintptr_t>(scratch) % 64 != 0 ? 1 : 0;
             std::copy(made.begin(), made.end(), static_cast<std::int64_t*>(scratch));
           },
       .scratch_bytes = kCount * static_cast<std::int64_t>(sizeof(std::int64_t))},
      {.count = 1, .work = [&](std::int64_t, const void*) { made[0] = 0; }}};
  run_phases(phases);
  EXPECT_EQ(unaligned, 0);
  for (std::int64_t item = 0; item < kCount; ++item) {
    EXPECT_EQ(sums[item], (item + 1) * (item + 2) / 2) << item;
  }
  EXPECT_EQ(made[0], 0);
}

INSTANTIATE_TEST_SUITE_P(Threads, Phases, ::testing::Values(1, 2, 3, 8));

} // namespace
} // namespace baton::ops::cpu
