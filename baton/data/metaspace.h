// SPDX-License-Identifier: Apache-2.0
// The visible space of SentencePiece vocabularies.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "baton/data/json_node.h"

namespace baton {

class TextArena;

struct Metaspace {
  /// Which pieces get a space before them that begin with none.
  enum class Prepend { kNever, kFirst, kAlways };

  std::string character; ///< the visible space, mostly U+2581
  std::uint32_t code_point = 0;
  Prepend prepend = Prepend::kAlways;
  bool split = true; ///< whether each visible space begins a piece

  std::string_view replace_spaces(std::string_view text, bool at_start, TextArena& arena) const;
};

/// Throws Error that names the file and the place.
Metaspace read_metaspace(const JsonNode& node);

} // namespace baton
