// SPDX-License-Identifier: Apache-2.0
#include "baton/data/tokenizer.h"

#include "baton/base/error.h"
#include "baton/data/utf8.h"

namespace baton {

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  StreamingDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) {
    text += decoder.push(id);
  }
  return text + decoder.finish();
}

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    ids[i] = static_cast<unsigned char>(text[i]);
  }
  return ids;
}

std::string ByteTokenizer::token_bytes(std::int32_t id) const {
  if (id == kEndOfDocument) {
    return "";
  }
  if (id < 0 || id > kEndOfDocument) {
    return std::string(kReplacementCharacter);
  }
  return std::string(1, static_cast<char>(id));
}

std::unique_ptr<const Tokenizer> make_tokenizer(const std::string& name) {
  if (name == "byte") {
    return std::make_unique<ByteTokenizer>();
  }
  throw Error("unknown tokenizer \"" + name + "\"; known: byte");
}

std::int64_t padded_vocab_size(std::int64_t vocab_size) {
  constexpr std::int64_t kMultiple = 64;
  return (vocab_size + kMultiple - 1) / kMultiple * kMultiple;
}

std::string StreamingDecoder::push(std::int32_t id) {
  pending_ += tokenizer_->token_bytes(id);
  return take_characters(pending_);
}

std::string StreamingDecoder::finish() {
  std::string rest(pending_.empty() ? "" : kReplacementCharacter);
  pending_.clear();
  return rest;
}

} // namespace baton
