// SPDX-License-Identifier: Apache-2.0
// A set of byte strings, searched for all that a text begins with, or for those in a text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace baton {

/// Immutable.
class PrefixTrie {
 public:
  PrefixTrie() { roots_.fill(kNone); }
  /// Keys with a value each, which is not negative. Of equal keys the last one counts.
  explicit PrefixTrie(std::vector<std::pair<std::string, std::int32_t>> keys);

  /// Calls `found(length, value)` for each key that the text begins with, the shortest first.
  template <class Found>
  void find_prefixes(std::string_view text, const Found& found) const {
    if (text.empty()) {
      return;
    }
    std::uint32_t node = roots_[static_cast<unsigned char>(text[0])];
    for (std::size_t length = 1; node != kNone; ++length) {
      if (nodes_[node].value >= 0) {
        found(length, nodes_[node].value);
      }
      if (length == text.size()) {
        return;
      }
      node = child(node, static_cast<unsigned char>(text[length]));
    }
  }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  struct Node {
    std::int32_t value = -1;
    std::uint32_t first_child = 0;
    std::uint16_t num_children = 0;
    unsigned char label = 0;
  };

  std::uint32_t child(std::uint32_t node, unsigned char label) const {
    const std::uint32_t first = nodes_[node].first_child;
    std::uint32_t low = 0;
    std::uint32_t high = nodes_[node].num_children;
    while (low < high) {
      const std::uint32_t middle = (low + high) / 2;
      if (nodes_[first + middle].label < label) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const bool is_child = low < nodes_[node].num_children && nodes_[first + low].label == label;
    return is_child ? first + low : kNone;
  }

  std::vector<Node> nodes_; // children stand beside each other, sorted by label
  std::array<std::uint32_t, 256> roots_{};
};

} // namespace baton
