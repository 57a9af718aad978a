// SPDX-License-Identifier: Apache-2.0
#include "baton/data/charsmap.h"

#include <algorithm>
#include <cstring>

#include "baton/base/error.h"
#include "baton/data/unicode.h"
#include "baton/data/utf8.h"

namespace baton {
namespace {

// A unit of the trie (darts-clone): a node's label, whether a key ends at it, and where its
// children lie; or, with the top bit set, a key's value.
bool has_leaf(std::uint32_t unit) {
  return (unit >> 8 & 1) == 1;
}
std::uint32_t value_of(std::uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
std::uint32_t label_of(std::uint32_t unit) {
  return unit & (0x80000000U | 0xFF);
}
std::size_t offset_of(std::uint32_t unit) {
  return static_cast<std::size_t>(unit >> 10) << ((unit & 1U << 9) >> 6);
}

} // namespace

Charsmap::Charsmap(std::string_view bytes) {
  std::uint32_t trie_size = 0;
  if (bytes.size() < sizeof(trie_size)) {
    throw Error("a character map of " + std::to_string(bytes.size()) + " bytes is cut");
  }
  std::memcpy(&trie_size, bytes.data(), sizeof(trie_size));
  bytes.remove_prefix(sizeof(trie_size));
  if (trie_size > bytes.size() || trie_size % sizeof(std::uint32_t) != 0 || trie_size == 0) {
    throw Error(
        "a character map's trie of " + std::to_string(trie_size) + " bytes does not fit into " +
        std::to_string(bytes.size()));
  }
  units_.resize(trie_size / sizeof(std::uint32_t));
  std::memcpy(units_.data(), bytes.data(), trie_size);
  texts_ = bytes.substr(trie_size);
  if (!is_valid_utf8(texts_)) {
    throw Error("a character map's texts are not valid UTF-8");
  }
}

std::optional<std::string_view> Charsmap::replacement(std::string_view part) const {
  std::size_t position = offset_of(units_[0]);
  for (const char c : part) {
    const auto label = static_cast<unsigned char>(c);
    position ^= label;
    if (label == 0 || position >= units_.size() || label_of(units_[position]) != label) {
      return std::nullopt;
    }
    const std::uint32_t unit = units_[position];
    position ^= offset_of(unit);
    if (has_leaf(unit)) {
      if (position >= units_.size()) {
        return std::nullopt;
      }
      const std::size_t begin = value_of(units_[position]);
      if (begin > texts_.size()) {
        return std::nullopt;
      }
      const std::size_t end = std::min(texts_.find('\0', begin), texts_.size());
      return std::string_view(texts_).substr(begin, end - begin);
    }
  }
  return std::nullopt;
}

void Charsmap::check_every_search() const {
  constexpr std::size_t kLabels = 256;
  if (texts_.empty() || texts_.back() != '\0') {
    throw Error("a character map's last text has no end");
  }
  std::vector<bool> seen(units_.size(), false);
  std::vector<std::size_t> open{0};
  seen[0] = true;
  while (!open.empty()) {
    const std::size_t node = open.back();
    open.pop_back();
    const std::size_t children = node ^ offset_of(units_[node]);
    if ((children | (kLabels - 1)) >= units_.size()) {
      throw Error("a character map's trie leads out of itself");
    }
    if (has_leaf(units_[node]) && value_of(units_[children]) >= texts_.size()) {
      throw Error("a character map's trie names a text that is not there");
    }
    for (std::size_t label = 1; label < kLabels; ++label) {
      const std::size_t child = children ^ label;
      if (!seen[child] && label_of(units_[child]) == label) {
        seen[child] = true;
        open.push_back(child);
      }
    }
  }
}

std::string Charsmap::normalize(std::string_view text) const {
  constexpr std::size_t kLongestCluster = 5;
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::string_view cluster = text.substr(0, unicode::grapheme_size(text));
    text.remove_prefix(cluster.size());
    if (cluster.size() <= kLongestCluster) {
      if (const auto whole = replacement(cluster)) {
        out += *whole;
        continue;
      }
    }
    for (std::size_t offset = 0; offset < cluster.size();) {
      const std::string_view character =
          cluster.substr(offset, unicode::character_size(cluster[offset]));
      out += replacement(character).value_or(character);
      offset += character.size();
    }
  }
  return out;
}

} // namespace baton
