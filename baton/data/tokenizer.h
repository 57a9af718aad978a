// SPDX-License-Identifier: Apache-2.0
// From text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// A vocabulary and its rules. Immutable, so that several threads may use one.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// What a checkpoint or recipe stores and make_tokenizer() takes.
  virtual std::string name() const = 0;
  /// Ids lie in [0, vocab_size). A model's embedding may be larger: see padded_vocab_size().
  virtual std::int64_t vocab_size() const = 0;

  /// Ends every document of a dataset, and generation.
  virtual std::int32_t end_of_document() const = 0;
  /// Stands before a prompt, for vocabularies that have such a token.
  virtual std::optional<std::int32_t> beginning_of_text() const = 0;
  /// Ends an answer, for vocabularies that have such a token.
  virtual std::optional<std::int32_t> end_of_text() const = 0;

  /// Token ids of a text, without special tokens.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// The bytes that an id stands for, which may be part of a character. Empty for special tokens;
  /// U+FFFD for an id outside the vocabulary, which only the padding of an embedding can name.
  virtual std::string token_bytes(std::int32_t id) const = 0;

  /// The text of ids as valid UTF-8: bytes that form no character become U+FFFD.
  std::string decode(std::span<const std::int32_t> ids) const;
};

/// One token a byte, and 256 for the end of a document: 257 ids, no training needed, any input.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr std::int32_t kEndOfDocument = 256;

  std::string name() const override { return "byte"; }
  std::int64_t vocab_size() const override { return kEndOfDocument + 1; }
  std::int32_t end_of_document() const override { return kEndOfDocument; }
  std::optional<std::int32_t> beginning_of_text() const override { return std::nullopt; }
  std::optional<std::int32_t> end_of_text() const override { return std::nullopt; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string token_bytes(std::int32_t id) const override;
};

/// Throws Error for a name that is not known, naming those that are.
std::unique_ptr<const Tokenizer> make_tokenizer(const std::string& name);

/// The rows of a model's embedding: the vocabulary rounded up to a multiple of 64, so that the
/// matrix products have even sides (257 becomes 320). No data names the padding ids.
std::int64_t padded_vocab_size(std::int64_t vocab_size);

/// Decodes tokens as they come. What it hands out is always whole characters of valid UTF-8; all
/// its pieces together are what Tokenizer::decode gives for all the ids.
class StreamingDecoder {
 public:
  /// `tokenizer` must outlive the decoder.
  explicit StreamingDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  /// The text that is complete with this id; often empty within a character.
  std::string push(std::int32_t id);
  /// What is left at the end: U+FFFD for a character that was cut, or nothing.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_; // the beginning of a character
};

} // namespace baton
