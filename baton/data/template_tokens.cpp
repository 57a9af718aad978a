// SPDX-License-Identifier: Apache-2.0
#include "baton/data/template_tokens.h"

#include "baton/base/error.h"

namespace baton {

SpecialTokens read_template_tokens(const JsonNode& node, std::int64_t vocab_size) {
  const std::string& type = node.at("type").string();
  SpecialTokens tokens;
  if (type == "ByteLevel") {
    return tokens; // concerns places in the text only
  }
  if (type == "Sequence") {
    for (const JsonNode& part : node.at("processors").list()) {
      const SpecialTokens found = read_template_tokens(part, vocab_size);
      if (!tokens.beginning_of_text) {
        tokens = found;
      }
    }
    return tokens;
  }
  if (type != "TemplateProcessing") {
    throw Error(
        node.file() + ": post_processor " + in_quotes(type) +
        " is not supported; known: ByteLevel, Sequence, TemplateProcessing");
  }
  for (const JsonNode& piece : node.at("single").list()) {
    const auto special = piece.find("SpecialToken");
    if (!special) {
      piece.at("Sequence").object();
      break; // what follows the text is of no concern here
    }
    const JsonNode ids = node.at("special_tokens").at(special->at("id").string()).at("ids");
    for (const JsonNode& id : ids.list()) {
      if (tokens.beginning_of_text) {
        id.fail("is a second token before a text, which is not supported");
      }
      tokens.beginning_of_text = static_cast<std::int32_t>(id.integer(vocab_size - 1));
    }
  }
  return tokens;
}

} // namespace baton
