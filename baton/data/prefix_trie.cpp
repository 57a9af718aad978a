// SPDX-License-Identifier: Apache-2.0
#include "baton/data/prefix_trie.h"

#include <algorithm>

namespace baton {

PrefixTrie::PrefixTrie(std::vector<std::pair<std::string, std::int32_t>> keys) {
  std::stable_sort(
      keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  // Level by level: the keys of a node are neighbours in the sorted list.
  struct Work {
    std::uint32_t node;
    std::size_t begin;
    std::size_t end;
    std::size_t depth;
  };
  nodes_.emplace_back();
  std::vector<Work> level{{0, 0, keys.size(), 0}};
  for (std::size_t i = 0; i < level.size(); ++i) {
    const Work work = level[i];
    std::size_t at = work.begin;
    for (; at < work.end && keys[at].first.size() == work.depth; ++at) {
      nodes_[work.node].value = keys[at].second;
    }
    nodes_[work.node].first_child = static_cast<std::uint32_t>(nodes_.size());
    while (at < work.end) {
      const auto label = static_cast<unsigned char>(keys[at].first[work.depth]);
      std::size_t end = at;
      while (end < work.end && static_cast<unsigned char>(keys[end].first[work.depth]) == label) {
        ++end;
      }
      level.push_back({static_cast<std::uint32_t>(nodes_.size()), at, end, work.depth + 1});
      nodes_.emplace_back();
      nodes_.back().label = label;
      ++nodes_[work.node].num_children;
      at = end;
    }
  }
  for (std::size_t label = 0; label < roots_.size(); ++label) {
    roots_[label] = child(0, static_cast<unsigned char>(label));
  }
}

} // namespace baton
