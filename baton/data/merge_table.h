// SPDX-License-Identifier: Apache-2.0
// The merges of a BPE vocabulary, by the pair that they join.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace baton {

struct Merge {
  std::uint32_t rank = 0; ///< the lowest comes first
  std::int32_t id = 0;    ///< of the joined token
};

/// An open hash table, at most half full. Immutable.
class MergeTable {
 public:
  using Pair = std::pair<std::int32_t, std::int32_t>;

  /// Later entries of a pair replace earlier ones.
  explicit MergeTable(const std::vector<std::pair<Pair, Merge>>& merges);

  /// The merge of two tokens, or nullptr.
  const Merge* find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) {
        return &slots_[slot].merge;
      }
      if (slots_[slot].key == kEmpty) {
        return nullptr;
      }
    }
  }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0}; // ids are not negative

  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge;
  };

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t slot_of(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32) & mask_;
  }

  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
};

} // namespace baton
