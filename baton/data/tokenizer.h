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

  /// Files that make_tokenizer() reads to make it again; none for what needs no file.
  virtual std::vector<std::string> files() const { return {}; }

  /// Token ids of a text; no special tokens are put around it. Those that it names are found in it.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// The bytes that an id stands for, which may be part of a character. Empty for special tokens;
  /// U+FFFD for an id outside the vocabulary, which only the padding of an embedding can name.
  virtual std::string token_bytes(std::int32_t id) const = 0;

  /// The text of ids as valid UTF-8: bytes that form no character become U+FFFD.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// What is known on the way through the ids of one text.
  class Decoding {
   public:
    virtual ~Decoding() = default;
    virtual std::string push(std::int32_t id) = 0;
    virtual std::string finish() = 0;
  };
  /// Joins the tokens' bytes, for vocabularies whose tokens do not depend on their neighbours.
  virtual std::unique_ptr<Decoding> start_decoding() const;
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

/// "byte", or the path of a tokenizer.json, of a SentencePiece .model file, or of a folder that
/// holds one of them. Throws Error for another name and for a file that cannot be used.
std::unique_ptr<const Tokenizer> make_tokenizer(const std::string& name);

/// The tokenizer of a model's folder: its tokenizer.json, else its tokenizer.model or only .model
/// file; in the folder itself or in its subfolder "tokenizer".
std::optional<std::string> find_tokenizer(const std::string& folder);

/// The rows of a model's embedding: the vocabulary rounded up to a multiple of 64, so that the
/// matrix products have even sides (257 becomes 320). No data names the padding ids.
std::int64_t padded_vocab_size(std::int64_t vocab_size);

/// Decodes tokens as they come. What it hands out is always whole characters of valid UTF-8; all
/// its pieces together are what Tokenizer::decode gives for all the ids.
class StreamingDecoder {
 public:
  /// `tokenizer` must outlive the decoder.
  explicit StreamingDecoder(const Tokenizer& tokenizer) : decoding_(tokenizer.start_decoding()) {}

  /// The text that is complete with this id; often empty within a character.
  std::string push(std::int32_t id) { return decoding_->push(id); }
  /// What is left at the end: U+FFFD for a character that was cut, or nothing.
  std::string finish() { return decoding_->finish(); }

 private:
  std::unique_ptr<Tokenizer::Decoding> decoding_;
};

} // namespace baton
