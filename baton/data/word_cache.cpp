// SPDX-License-Identifier: Apache-2.0
#include "baton/data/word_cache.h"

#include <algorithm>
#include <cstring>

namespace baton {

void WordCache::add(std::string_view word, std::span<const std::int32_t> ids) {
  if (ids.empty() || ids.size() > 0xFFFF) {
    return;
  }
  if (used_ == kSlots / 2) {
    std::fill(slots_.begin(), slots_.end(), Slot());
    words_.clear();
    ids_.clear();
    used_ = 0;
  }
  const std::uint64_t hash = hash_of(word);
  std::size_t slot = hash & kMask;
  while (slots_[slot].count != 0) {
    slot = (slot + 1) & kMask;
  }
  slots_[slot] = {
      static_cast<std::uint32_t>(hash >> 32),
      static_cast<std::uint32_t>(words_.size()),
      static_cast<std::uint32_t>(ids_.size()),
      static_cast<std::uint16_t>(word.size()),
      static_cast<std::uint16_t>(ids.size())};
  words_.insert(words_.end(), word.begin(), word.end());
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++used_;
}

std::uint64_t WordCache::hash_of(std::string_view word) {
  constexpr std::uint64_t kFactor = 0x9E3779B97F4A7C15U;
  std::uint64_t hash = word.size();
  const auto mix = [&hash](std::uint64_t bits) {
    hash = (hash ^ bits) * kFactor;
    hash ^= hash >> 32;
  };
  while (word.size() >= sizeof(std::uint64_t)) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, word.data(), sizeof(bits));
    mix(bits);
    word.remove_prefix(sizeof(bits));
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, word.data(), word.size());
  mix(rest);
  return hash * kFactor;
}

} // namespace baton
