// SPDX-License-Identifier: Apache-2.0
// The order in which an epoch visits documents, without a list of them.
#pragma once

#include <cstdint>

#include "baton/base/random.h"

namespace baton {

/// A permutation of [0, count) that is a function of a key: document number `position` of the
/// epoch. A Feistel network over Philox on the smallest even number of bits that holds `count`,
/// walked until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002),
/// so a corpus of any size needs no memory and any position is reached at once.
class DocumentOrder {
 public:
  /// The order of the data itself.
  static DocumentOrder sequential(std::int64_t count);
  /// The order of one epoch.
  static DocumentOrder shuffled(std::int64_t count, std::uint64_t seed, std::int64_t epoch);

  std::int64_t count() const { return count_; }
  std::int64_t at(std::int64_t position) const;

 private:
  DocumentOrder(std::int64_t count, RandomKey key, int half_bits);

  std::int64_t count_;
  RandomKey key_;
  int half_bits_; // 0: the order of the data
};

} // namespace baton
