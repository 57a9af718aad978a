// SPDX-License-Identifier: Apache-2.0
// What the lengths of documents or sequences are like, without a list of them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace baton {

struct LengthStatistics {
  /// Lengths in [low, high].
  struct Bucket {
    std::int64_t low = 0;
    std::int64_t high = 0;
    std::int64_t count = 0;
  };

  std::int64_t count = 0;
  std::int64_t shortest = 0;
  std::int64_t longest = 0;
  double mean = 0.0;
  /// The smallest length that at least this share of all do not exceed.
  std::int64_t median = 0;
  std::int64_t percentile_90 = 0;
  std::int64_t percentile_99 = 0;
  /// 0, 1, 2 to 3, 4 to 7, ...: from the first that is not empty to the last.
  std::vector<Bucket> histogram;
};

/// `length(i)` is the i-th of `count` lengths, none below 0. It is asked for several times: the
/// percentiles are exact and need no memory.
LengthStatistics length_statistics(
    std::int64_t count,
    const std::function<std::int64_t(std::int64_t)>& length);

} // namespace baton
