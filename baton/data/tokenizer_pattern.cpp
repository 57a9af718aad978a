// SPDX-License-Identifier: Apache-2.0
#include "baton/data/tokenizer_pattern.h"

#include "baton/base/error.h"

namespace baton {

Regex read_pattern(const JsonNode& node) {
  const auto literal = node.find("String");
  const auto regex = node.find("Regex");
  if (literal.has_value() == regex.has_value()) {
    node.fail("must have one of \"String\" and \"Regex\"");
  }
  try {
    return literal ? Regex::literal(literal->string()) : Regex(regex->string());
  } catch (const Error& error) {
    throw Error(node.file() + ": " + error.what());
  }
}

} // namespace baton
