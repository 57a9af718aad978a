// SPDX-License-Identifier: Apache-2.0
#include "baton/data/merge_table.h"

namespace baton {

MergeTable::MergeTable(const std::vector<std::pair<Pair, Merge>>& merges) {
  std::size_t size = 2;
  while (size < merges.size() * 2) {
    size *= 2;
  }
  slots_.resize(size);
  mask_ = size - 1;
  for (const auto& [pair, merge] : merges) {
    const std::uint64_t key = key_of(pair.first, pair.second);
    std::size_t slot = slot_of(key);
    while (slots_[slot].key != kEmpty && slots_[slot].key != key) {
      slot = (slot + 1) & mask_;
    }
    slots_[slot] = {key, merge};
  }
}

} // namespace baton
