// SPDX-License-Identifier: Apache-2.0
#include "baton/data/metaspace.h"

#include <algorithm>

#include "baton/data/pre_tokenizer.h"
#include "baton/data/unicode.h"

namespace baton {

std::string_view Metaspace::replace_spaces(std::string_view text, bool at_start, TextArena& arena)
    const {
  const bool begins_with_space = text.starts_with(' ') || text.starts_with(character);
  const bool wants_space = prepend == Prepend::kAlways || (prepend == Prepend::kFirst && at_start);
  char* const room = arena.reserve((text.size() + 1) * character.size());
  char* end = room;
  if (wants_space && !begins_with_space) {
    end = std::copy(character.begin(), character.end(), end);
  }
  for (const char c : text) {
    if (c == ' ') {
      end = std::copy(character.begin(), character.end(), end);
    } else {
      *end++ = c;
    }
  }
  const auto size = static_cast<std::size_t>(end - room);
  arena.keep(size);
  return {room, size};
}

Metaspace read_metaspace(const JsonNode& node) {
  Metaspace metaspace;
  const JsonNode replacement = node.at("replacement");
  metaspace.character = replacement.string();
  std::size_t offset = 0;
  if (!metaspace.character.empty()) {
    metaspace.code_point = unicode::next_code_point(metaspace.character, offset);
  }
  if (offset == 0 || offset != metaspace.character.size()) {
    replacement.fail("must be one character");
  }
  if (const auto scheme = node.find("prepend_scheme")) {
    const std::string& name = scheme->string();
    if (name != "always" && name != "first" && name != "never") {
      scheme->fail("must be always, first or never, not " + in_quotes(name));
    }
    metaspace.prepend = name == "always"  ? Metaspace::Prepend::kAlways
                        : name == "first" ? Metaspace::Prepend::kFirst
                                          : Metaspace::Prepend::kNever;
  }
  // What older files say instead.
  if (!node.boolean_or("add_prefix_space", true)) {
    if (node.find("prepend_scheme") && metaspace.prepend != Metaspace::Prepend::kNever) {
      node.fail("has an add_prefix_space that contradicts its prepend_scheme");
    }
    metaspace.prepend = Metaspace::Prepend::kNever;
  }
  metaspace.split = node.boolean_or("split", true);
  return metaspace;
}

} // namespace baton
