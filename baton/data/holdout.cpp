// SPDX-License-Identifier: Apache-2.0
#include "baton/data/holdout.h"

#include <cmath>
#include <sstream>

#include "baton/base/error.h"

namespace baton {

Holdout::Holdout(double share, std::uint64_t seed)
    : share_(share), key_(RandomKey(seed).with("holdout")) {
  if (!(share >= 0.0 && share < 1.0)) {
    std::ostringstream message;
    message << "the held-out share must lie in [0, 1): " << share;
    throw Error(message.str());
  }
}

std::int64_t Holdout::stratum_of(std::int64_t document) const {
  return static_cast<std::int64_t>(std::floor(static_cast<double>(document) * share_));
}

std::int64_t Holdout::first_of(std::int64_t stratum) const {
  auto first = static_cast<std::int64_t>(std::ceil(static_cast<double>(stratum) / share_));
  // The quotient is rounded; stratum_of() is what decides.
  while (first > 0 && stratum_of(first - 1) >= stratum) {
    --first;
  }
  while (stratum_of(first) < stratum) {
    ++first;
  }
  return first;
}

bool Holdout::contains(std::int64_t document) const {
  if (share_ == 0.0) {
    return false;
  }
  const std::int64_t stratum = stratum_of(document);
  const std::int64_t first = first_of(stratum);
  const auto size = static_cast<std::uint64_t>(first_of(stratum + 1) - first);
  const auto words = philox(key_, static_cast<std::uint64_t>(stratum));
  const std::uint64_t random = std::uint64_t{words[0]} << 32 | words[1];
  return document - first == static_cast<std::int64_t>(random % size);
}

} // namespace baton
