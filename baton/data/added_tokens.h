// SPDX-License-Identifier: Apache-2.0
// The "added_tokens" of a tokenizer.json: texts that are one token wherever they stand.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "baton/data/json_node.h"
#include "baton/data/prefix_trie.h"
#include "baton/data/text_normalizer.h"
#include "baton/data/vocabulary.h"

namespace baton {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false; ///< only where no word character stands beside it
  bool strips_left = false; ///< takes white space before it along
  bool strips_right = false;
  bool normalized = false; ///< found in the normalized text
  bool special = false;
  std::string normalized_content;
};

/// Immutable.
class AddedTokens {
 public:
  /// A part of a text: an added token, or what is between them.
  struct Part {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::optional<std::int32_t> id;
  };

  AddedTokens() = default;
  /// Throws Error that names the file.
  AddedTokens(const JsonNode& node, const Vocabulary& vocabulary, const TextNormalizer* normalizer);

  /// Cuts a text at the tokens that are looked for before, or after, it is normalized. Of those at
  /// one place the longest counts. Parts are not empty.
  void split_original(std::string_view text, std::vector<Part>& parts) const {
    split(text, original_, parts);
  }
  void split_normalized(std::string_view text, std::vector<Part>& parts) const {
    split(text, normalized_, parts);
  }

  const AddedToken* find(std::int32_t id) const;
  /// Whether a text is the content of a special token.
  bool is_special(const std::string& text) const { return special_.count(text) != 0; }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  // Finds the leftmost longest of its texts.
  struct Finder {
    PrefixTrie trie;
    std::vector<bool> first_bytes = std::vector<bool>(256, false);
    bool empty = true;
  };

  Finder make_finder(bool normalized) const;
  void split(std::string_view text, const Finder& finder, std::vector<Part>& parts) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::int32_t, std::size_t> by_id_;
  std::unordered_set<std::string> special_;
  Finder original_;
  Finder normalized_;
};

} // namespace baton
