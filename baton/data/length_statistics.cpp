// SPDX-License-Identifier: Apache-2.0
#include "baton/data/length_statistics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace baton {
namespace {

using Length = std::function<std::int64_t(std::int64_t)>;

constexpr int kDigitBits = 16;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

std::size_t bucket_of(std::int64_t length) {
  return static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(length)));
}

// The length of a rank (from 0) in sorted order, digit by digit from the highest: one pass each
// over those that agree in the digits before.
std::int64_t
ranked_length(std::int64_t count, const Length& length, std::int64_t rank, std::int64_t longest) {
  std::vector<std::int64_t> counts(kDigits);
  const auto width = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(longest)));
  std::int64_t prefix = 0; // the digits that are known
  for (int shift = (width + kDigitBits - 1) / kDigitBits * kDigitBits; shift > 0;) {
    shift -= kDigitBits;
    std::fill(counts.begin(), counts.end(), 0);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t digits = length(i) >> shift;
      if (digits >> kDigitBits == prefix) {
        ++counts[static_cast<std::size_t>(digits) % kDigits];
      }
    }
    std::size_t digit = 0;
    while (rank >= counts[digit]) {
      rank -= counts[digit++];
    }
    prefix = prefix << kDigitBits | static_cast<std::int64_t>(digit);
  }
  return prefix;
}

} // namespace

LengthStatistics length_statistics(std::int64_t count, const Length& length) {
  LengthStatistics statistics;
  statistics.count = count;
  if (count == 0) {
    return statistics;
  }
  constexpr std::size_t kBuckets = 65;
  std::array<std::int64_t, kBuckets> buckets{};
  std::int64_t sum = 0;
  statistics.shortest = statistics.longest = length(0);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t value = length(i);
    sum += value;
    statistics.shortest = std::min(statistics.shortest, value);
    statistics.longest = std::max(statistics.longest, value);
    ++buckets[bucket_of(value)];
  }
  statistics.mean = static_cast<double>(sum) / static_cast<double>(count);
  const auto percentile = [&](double share) {
    const auto rank = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(count))) - 1;
    return ranked_length(
        count, length, std::clamp<std::int64_t>(rank, 0, count - 1), statistics.longest);
  };
  statistics.median = percentile(0.5);
  statistics.percentile_90 = percentile(0.9);
  statistics.percentile_99 = percentile(0.99);
  for (std::size_t i = bucket_of(statistics.shortest); i <= bucket_of(statistics.longest); ++i) {
    const std::int64_t low = i == 0 ? 0 : std::int64_t{1} << (i - 1);
    statistics.histogram.push_back(
        {.low = low, .high = i == 0 ? 0 : 2 * low - 1, .count = buckets[i]});
  }
  return statistics;
}

} // namespace baton
