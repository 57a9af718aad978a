// SPDX-License-Identifier: Apache-2.0
// Which documents are kept for evaluation.
#pragma once

#include <cstdint>

#include "baton/base/random.h"

namespace baton {

/// Holds out a share of the documents, spread evenly: one at a random place among each 1/share
/// documents that follow one another. A function of (share, seed, number of the document).
class Holdout {
 public:
  /// `share` in [0, 1); 0 holds out nothing. Throws Error otherwise.
  Holdout(double share, std::uint64_t seed);

  bool contains(std::int64_t document) const;

 private:
  std::int64_t stratum_of(std::int64_t document) const;
  std::int64_t first_of(std::int64_t stratum) const;

  double share_;
  RandomKey key_;
};

} // namespace baton
