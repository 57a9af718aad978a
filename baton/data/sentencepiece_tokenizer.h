// SPDX-License-Identifier: Apache-2.0
// Tokenizers of SentencePiece's .model files, through its library.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "baton/data/sentencepiece_file.h"
#include "baton/data/special_tokens.h"
#include "baton/data/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace baton {

/// Gives the ids and the text that SentencePiece's library gives. It finds user-defined pieces in a
/// text, but no control pieces such as "</s>".
class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// `path` names the file in messages; the files beside it are read for special tokens. Throws
  /// Error that names the file.
  SentencePieceTokenizer(const std::string& bytes, const std::string& path);
  ~SentencePieceTokenizer() override;

  std::string name() const override { return path_; }
  std::int64_t vocab_size() const override {
    return static_cast<std::int64_t>(file_.pieces.size());
  }
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
  class Surfaces;

  std::optional<std::int32_t> id_of(std::string_view text) const;

  std::string path_;
  SentencePieceFile file_;
  std::unique_ptr<const sentencepiece::SentencePieceProcessor> processor_;
  SpecialTokens special_;
};

/// Throws Error that names the file.
std::unique_ptr<const Tokenizer> read_sentencepiece_tokenizer(const std::string& path);

} // namespace baton
