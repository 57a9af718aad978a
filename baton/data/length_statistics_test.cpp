// SPDX-License-Identifier: Apache-2.0
#include "baton/data/length_statistics.h"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/random.h"

namespace baton {
namespace {

LengthStatistics statistics_of(const std::vector<std::int64_t>& lengths) {
  return length_statistics(static_cast<std::int64_t>(lengths.size()), [&](std::int64_t i) {
    return lengths[static_cast<std::size_t>(i)];
  });
}

TEST(LengthStatistics, OfNothingAndOfOne) {
  const LengthStatistics none = statistics_of({});
  EXPECT_EQ(none.count, 0);
  EXPECT_TRUE(none.histogram.empty());
  for (const std::int64_t length : {0, 1, 65535, 65536, 1 << 30}) {
    const LengthStatistics one = statistics_of({length});
    EXPECT_EQ(one.shortest, length);
    EXPECT_EQ(one.longest, length);
    EXPECT_EQ(one.median, length);
    EXPECT_EQ(one.percentile_99, length);
    EXPECT_EQ(one.mean, static_cast<double>(length));
    ASSERT_EQ(one.histogram.size(), 1U);
    EXPECT_LE(one.histogram[0].low, length);
    EXPECT_GE(one.histogram[0].high, length);
  }
}

TEST(LengthStatistics, AgreesWithSorting) {
  for (std::uint64_t trial = 0; trial < 40; ++trial) {
    std::vector<std::int64_t> lengths;
    const int shift = static_cast<int>(philox(RandomKey(trial), 0)[0] % 32);
    for (std::uint64_t i = 0; i < 1 + trial * 37; ++i) {
      const auto words = philox(RandomKey(trial).with("lengths"), i);
      lengths.push_back(words[0] >> shift >> words[1] % 8);
    }
    const LengthStatistics statistics = statistics_of(lengths);
    std::sort(lengths.begin(), lengths.end());
    const auto at = [&](double share) {
      const auto count = static_cast<double>(lengths.size());
      std::size_t rank = 0;
      while (static_cast<double>(rank + 1) < share * count) {
        ++rank;
      }
      return lengths[rank];
    };
    EXPECT_EQ(statistics.median, at(0.5));
    EXPECT_EQ(statistics.percentile_90, at(0.9));
    EXPECT_EQ(statistics.percentile_99, at(0.99));
    std::int64_t counted = 0;
    for (const LengthStatistics::Bucket& bucket : statistics.histogram) {
      counted += bucket.count;
      EXPECT_EQ(
          bucket.count, std::count_if(lengths.begin(), lengths.end(), [&](std::int64_t length) {
            return length >= bucket.low && length <= bucket.high;
          }));
    }
    EXPECT_EQ(counted, statistics.count);
    EXPECT_GT(statistics.histogram.front().count, 0);
    EXPECT_GT(statistics.histogram.back().count, 0);
  }
}

} // namespace
} // namespace baton
