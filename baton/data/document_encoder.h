// SPDX-License-Identifier: Apache-2.0
// Turns slices of a corpus into documents of token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "baton/data/corpus.h"
#include "baton/data/tokenizer.h"

namespace baton {

/// One document, its end token included.
struct EncodedDocument {
  std::vector<std::int32_t> tokens;
  /// Whether the loss counts each token; empty when it counts all.
  std::vector<std::uint8_t> mask;
};

/// Encodes documents; empty ones are dropped. Immutable, so that several threads may use one.
///
/// A JSON object gives the text in the named field, or, where it has no such field, "prompt" and
/// "completion" joined: then the loss counts the completion and the end of the document only.
class DocumentEncoder {
 public:
  /// `tokenizer` must outlive the encoder.
  DocumentEncoder(const Tokenizer& tokenizer, std::string field);

  /// The documents of one slice, in order. Throws Error that names the file and the line.
  std::vector<EncodedDocument> encode(const CorpusSlice& slice) const;

 private:
  EncodedDocument encode_text(std::string_view text) const;
  EncodedDocument encode_record(std::string_view line) const;

  const Tokenizer* tokenizer_;
  std::string field_;
};

} // namespace baton
