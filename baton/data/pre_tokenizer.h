// SPDX-License-Identifier: Apache-2.0
// The "pre_tokenizer" of a tokenizer.json: cuts a normalized text into the pieces that the model
// encodes one by one.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "baton/data/json_node.h"

namespace baton {

struct TextPiece {
  std::string_view text; ///< valid UTF-8, not empty
  bool at_start = false; ///< whether it begins where the whole text does
};

/// Owns the texts that pieces point to where they are not parts of the input.
class TextArena {
 public:
  /// Room for `size` bytes, which stays where it is until clear().
  char* reserve(std::size_t size);
  /// Says how much of the last reserved room is used; the next begins behind it.
  void keep(std::size_t size) { used_ += size; }
  std::string_view copy(std::string_view first, std::string_view second);
  void clear();

 private:
  std::vector<std::vector<char>> blocks_;
  std::size_t used_ = 0; // of the last block
};

/// Immutable.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Replaces pieces by their parts; none of them is empty.
  virtual void cut(std::vector<TextPiece>& pieces, TextArena& arena) const = 0;
};

/// Throws Error that names the file for a kind or an option that is not supported.
std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const JsonNode& node);

} // namespace baton
