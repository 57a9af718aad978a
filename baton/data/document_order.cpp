// SPDX-License-Identifier: Apache-2.0
#include "baton/data/document_order.h"

#include <algorithm>
#include <bit>

#include <c10/util/Exception.h>

namespace baton {
namespace {

constexpr int kRounds = 6;
// Halves of one or two bits have too few round functions for an even choice of permutations.
constexpr int kSmallestHalf = 4;

} // namespace

DocumentOrder::DocumentOrder(std::int64_t count, RandomKey key, int half_bits)
    : count_(count), key_(key), half_bits_(half_bits) {
  TORCH_INTERNAL_ASSERT(count >= 0);
}

DocumentOrder DocumentOrder::sequential(std::int64_t count) {
  return DocumentOrder(count, RandomKey(0), 0);
}

DocumentOrder DocumentOrder::shuffled(std::int64_t count, std::uint64_t seed, std::int64_t epoch) {
  const auto largest = static_cast<std::uint64_t>(std::max<std::int64_t>(count - 1, 0));
  const int half_bits =
      std::max(kSmallestHalf, (static_cast<int>(std::bit_width(largest)) + 1) / 2);
  const RandomKey key =
      RandomKey(seed).with("document order").with(static_cast<std::uint64_t>(epoch));
  return DocumentOrder(count, key, half_bits);
}

std::int64_t DocumentOrder::at(std::int64_t position) const {
  TORCH_INTERNAL_ASSERT(position >= 0 && position < count_, position, " of ", count_);
  if (half_bits_ == 0) {
    return position;
  }
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<std::uint64_t>(position);
  do {
    std::uint64_t left = value >> half_bits_;
    std::uint64_t right = value & mask;
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t counter = static_cast<std::uint64_t>(round) << 32 | right;
      const std::uint64_t next = (left ^ philox(key_, counter)[0]) & mask;
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<std::uint64_t>(count_));
  return static_cast<std::int64_t>(value);
}

} // namespace baton
