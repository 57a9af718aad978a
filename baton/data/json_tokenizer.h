// SPDX-License-Identifier: Apache-2.0
// Tokenizers of Hugging Face's tokenizer.json.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "baton/data/added_tokens.h"
#include "baton/data/pre_tokenizer.h"
#include "baton/data/special_tokens.h"
#include "baton/data/text_normalizer.h"
#include "baton/data/token_decoder.h"
#include "baton/data/token_model.h"
#include "baton/data/tokenizer.h"

namespace baton {

/// Gives the ids that PyPI's `tokenizers` gives by `encode(text, add_special_tokens=False)` without
/// truncation and padding, whatever the file says of both, and the text that it gives by
/// `decode(ids, skip_special_tokens=True)`. Bytes that are no UTF-8 are encoded as U+FFFD.
class JsonTokenizer final : public Tokenizer {
 public:
  /// `path` names the file in messages; the files beside it are read for special tokens. Throws
  /// Error that names the file and what in it is wrong or not supported.
  JsonTokenizer(const std::string& text, const std::string& path);
  ~JsonTokenizer() override;

  std::string name() const override { return path_; }
  std::int64_t vocab_size() const override { return vocab_size_; }
  std::int32_t end_of_document() const override { return *special_.end_of_document; }
  std::optional<std::int32_t> beginning_of_text() const override {
    return special_.beginning_of_text;
  }
  std::optional<std::int32_t> end_of_text() const override { return special_.end_of_text; }
  std::vector<std::string> files() const override;
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string token_bytes(std::int32_t id) const override;
  std::unique_ptr<Decoding> start_decoding() const override;

 private:
  struct Scratch; // what encoding needs beside the result, used again for the next text
  class Borrowed;
  class Steps;

  void encode_part(
      std::string_view text,
      bool at_start,
      Scratch& scratch,
      std::vector<std::int32_t>& ids) const;
  void encode_pieces(Scratch& scratch, std::vector<std::int32_t>& ids) const;
  std::optional<std::int32_t> id_of(std::string_view text) const;

  // The text that a decoder gets for an id: nullptr for an unknown id, empty for a special token.
  const std::string* text_to_decode(std::int32_t id) const;

  std::string path_;
  std::unique_ptr<const TokenModel> model_;
  std::unique_ptr<const TextNormalizer> normalizer_;  // may be null
  std::unique_ptr<const PreTokenizer> pre_tokenizer_; // may be null
  AddedTokens added_;
  std::optional<TokenDecoder> decoder_;
  SpecialTokens special_;
  std::int64_t vocab_size_ = 0;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_; // one for each thread that encodes at a time
};

/// Throws Error that names the file.
std::unique_ptr<const Tokenizer> read_json_tokenizer(const std::string& path);

} // namespace baton
