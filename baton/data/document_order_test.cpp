// SPDX-License-Identifier: Apache-2.0
#include "baton/data/document_order.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(DocumentOrder, VisitsEveryDocumentOnce) {
  for (const std::int64_t count : {1, 2, 3, 15, 16, 17, 255, 256, 257, 1000, 65537}) {
    const DocumentOrder order = DocumentOrder::shuffled(count, 7, 2);
    std::vector<bool> seen(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t document = order.at(i);
      ASSERT_GE(document, 0);
      ASSERT_LT(document, count);
      ASSERT_FALSE(seen[static_cast<std::size_t>(document)]);
      seen[static_cast<std::size_t>(document)] = true;
    }
  }
}

TEST(DocumentOrder, SequentialIsTheIdentity) {
  const DocumentOrder order = DocumentOrder::sequential(5);
  for (std::int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(order.at(i), i);
  }
}

TEST(DocumentOrder, ReachesTheLastPlaceOfAHugeCorpus) {
  const std::int64_t count = (std::int64_t{1} << 40) + 1;
  const DocumentOrder order = DocumentOrder::shuffled(count, 7, 0);
  EXPECT_LT(order.at(count - 1), count);
  EXPECT_NE(order.at(0), order.at(count - 1));
}

TEST(DocumentOrder, DiffersBySeedAndEpoch) {
  const auto list = [](std::uint64_t seed, std::int64_t epoch) {
    std::vector<std::int64_t> documents;
    const DocumentOrder order = DocumentOrder::shuffled(100, seed, epoch);
    for (std::int64_t i = 0; i < 100; ++i) {
      documents.push_back(order.at(i));
    }
    return documents;
  };
  EXPECT_EQ(list(1, 0), list(1, 0));
  EXPECT_NE(list(1, 0), list(1, 1));
  EXPECT_NE(list(1, 0), list(2, 0));
}

// Each document is equally likely at each place: the statistic over (count - 1)^2 degrees of
// freedom lies within six deviations of its mean.
TEST(DocumentOrder, EveryPlaceIsEquallyLikely) {
  constexpr int kTrials = 4000;
  for (const std::int64_t count : {3, 5, 20}) {
    std::vector<double> seen(static_cast<std::size_t>(count * count));
    for (int seed = 0; seed < kTrials; ++seed) {
      const DocumentOrder order =
          DocumentOrder::shuffled(count, static_cast<std::uint64_t>(seed), 0);
      for (std::int64_t i = 0; i < count; ++i) {
        seen[static_cast<std::size_t>(i * count + order.at(i))] += 1.0;
      }
    }
    const double expected = static_cast<double>(kTrials) / static_cast<double>(count);
    double statistic = 0.0;
    for (const double times : seen) {
      statistic += (times - expected) * (times - expected) / expected;
    }
    const double freedom = static_cast<double>((count - 1) * (count - 1));
    EXPECT_LT(std::abs(statistic - freedom), 6.0 * std::sqrt(2.0 * freedom)) << count;
  }
}

} // namespace
} // namespace baton
