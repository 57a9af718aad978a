// SPDX-License-Identifier: Apache-2.0
// The "precompiled" character map of SentencePiece: which characters become which.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// A double-array trie of UTF-8 keys and a table of texts that they become. Immutable.
class Charsmap {
 public:
  /// `bytes`: the trie's size in bytes (uint32), the trie (uint32 units), the texts, each ended by
  /// a zero byte. Throws Error for bytes that are cut or whose texts are not UTF-8. No lookup
  /// leaves the trie, whatever its units say.
  explicit Charsmap(std::string_view bytes);

  /// Throws Error where a search could leave the trie or the texts: for other readers of the same
  /// bytes, which do not look.
  void check_every_search() const;

  /// What PyPI's tokenizers makes of a valid UTF-8 text: each grapheme cluster of less than six
  /// bytes, and otherwise each character, is looked up, and becomes what the shortest key that it
  /// begins with becomes.
  std::string normalize(std::string_view text) const;

 private:
  std::optional<std::string_view> replacement(std::string_view part) const;

  std::vector<std::uint32_t> units_;
  std::string texts_;
};

} // namespace baton
