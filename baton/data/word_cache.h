// SPDX-License-Identifier: Apache-2.0
// The ids of words that came before.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// An open hash table that starts anew when it is full. For one thread at a time.
class WordCache {
 public:
  /// Longer words seldom come again.
  static constexpr std::size_t kLongestWord = 64;

  WordCache() : slots_(kSlots) {}

  /// Valid until the next add().
  std::optional<std::span<const std::int32_t>> find(std::string_view word) const {
    const std::uint64_t hash = hash_of(word);
    for (std::size_t slot = hash & kMask; slots_[slot].count != 0; slot = (slot + 1) & kMask) {
      const Slot& entry = slots_[slot];
      if (entry.hash == static_cast<std::uint32_t>(hash >> 32) && entry.size == word.size() &&
          std::string_view(words_.data() + entry.word, entry.size) == word) {
        return std::span(ids_.data() + entry.ids, entry.count);
      }
    }
    return std::nullopt;
  }

  /// `word`, of at most kLongestWord bytes, must not be there yet.
  void add(std::string_view word, std::span<const std::int32_t> ids);

 private:
  static constexpr std::size_t kSlots = std::size_t{1} << 16;
  static constexpr std::size_t kMask = kSlots - 1;

  struct Slot {
    std::uint32_t hash = 0; // the upper half
    std::uint32_t word = 0;
    std::uint32_t ids = 0;
    std::uint16_t size = 0;
    std::uint16_t count = 0; // 0 for an empty slot
  };

  static std::uint64_t hash_of(std::string_view word);

  std::vector<Slot> slots_;
  std::vector<char> words_;
  std::vector<std::int32_t> ids_;
  std::size_t used_ = 0;
};

} // namespace baton
