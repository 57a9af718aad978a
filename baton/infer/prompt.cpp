// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/prompt.h"

namespace baton::infer {

std::vector<std::int64_t> prompt_tokens(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int64_t> tokens;
  if (tokenizer.beginning_of_text()) {
    tokens.push_back(*tokenizer.beginning_of_text());
  }
  const auto ids = tokenizer.encode(text);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  return tokens;
}

std::vector<std::int64_t> end_tokens(const Tokenizer& tokenizer) {
  std::vector<std::int64_t> tokens{tokenizer.end_of_document()};
  if (tokenizer.end_of_text()) {
    tokens.push_back(*tokenizer.end_of_text());
  }
  return tokens;
}

} // namespace baton::infer
