// SPDX-License-Identifier: Apache-2.0
// The `.idx` half of Megatron's indexed datasets: parsed and checked without libtorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// How one token is stored; the values are the codes of the file format.
enum class TokenType : std::uint8_t {
  kUint8 = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kFloat64 = 6,
  kFloat32 = 7,
  kUint16 = 8,
};

/// Bytes of one token.
std::size_t token_size(TokenType type);

/// "uint16", "float32", ...
std::string_view token_type_name(TokenType type);

/// The type of this name. Throws Error for any other.
TokenType token_type_of(std::string_view name);

/// The smallest integer type that Megatron's own tools choose for ids below `vocab_size`.
TokenType token_type_for(std::int64_t vocab_size);

/// Where the documents of a `.bin` file lie.
///
/// The file (little-endian, unaligned): magic "MMIDIDX\0\0", version 1 (u64), type code (u8),
/// number of sequences S (u64), number of document boundaries (u64), lengths in tokens (i32 [S]),
/// byte offsets (i64 [S]), boundaries (i64, first 0, last S): document d holds the sequences from
/// boundary d to boundary d + 1. Sequences lie behind one another without gaps, so a document is
/// one run of tokens.
///
/// A view: the bytes must outlive it. Corpora have millions of documents, and a mapped index costs
/// no memory.
class DatasetIndex {
 public:
  /// Checks every entry against the format and the size of the `.bin` file. Throws Error that
  /// begins with `name` and says what is wrong.
  DatasetIndex(std::span<const std::byte> bytes, std::uint64_t bin_size, const std::string& name);

  TokenType type() const { return type_; }
  std::int64_t num_documents() const { return num_documents_; }
  std::int64_t num_sequences() const { return num_sequences_; }
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t sequence_length(std::int64_t sequence) const;

  /// Index of a document's first token in the `.bin` file; `document` may equal num_documents().
  std::int64_t document_start(std::int64_t document) const;
  std::int64_t document_length(std::int64_t document) const {
    return document_start(document + 1) - document_start(document);
  }

 private:
  void read_header(const std::string& name);
  void check_size(const std::string& name) const;
  void check_sequences(std::uint64_t bin_size, const std::string& name);
  void check_documents(const std::string& name) const;
  std::int64_t boundary(std::int64_t document) const;

  std::span<const std::byte> bytes_;
  TokenType type_ = TokenType::kUint8;
  std::int64_t num_sequences_ = 0;
  std::int64_t num_documents_ = 0;
  std::int64_t num_tokens_ = 0;
};

/// Gathers the lengths of sequences and writes them as an `.idx` file. Holds 4 bytes a sequence,
/// and 16 more for a document that has other than one.
class DatasetIndexWriter {
 public:
  using Sink = std::function<void(std::string_view)>;

  explicit DatasetIndexWriter(TokenType type) : type_(type) {}

  /// A sequence of the document under way.
  void add_sequence(std::int32_t length) { lengths_.push_back(length); }
  void end_document();

  std::int64_t num_documents() const { return num_documents_; }

  /// The bytes of the file, in blocks.
  void write(const Sink& sink) const;

 private:
  // The boundaries from `document` on, up to the next jump, are `sequence`, `sequence` + 1, ...
  struct Jump {
    std::int64_t document = 0;
    std::int64_t sequence = 0;
  };

  TokenType type_;
  std::deque<std::int32_t> lengths_; // grows without a second copy of what is there
  std::vector<Jump> jumps_;
  std::int64_t num_documents_ = 0;
  std::int64_t next_boundary_ = 1; // of the document under way, if it has one sequence
};

} // namespace baton
