// SPDX-License-Identifier: Apache-2.0
// Turns slices of a corpus into documents of token ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
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

/// What to do with a line of JSON that holds no record.
enum class BadLines {
  kFail, ///< it ends the build
  kSkip, ///< it is passed over and named
};

/// The documents of a slice, in order.
struct EncodedSlice {
  std::vector<EncodedDocument> documents;
  std::vector<std::string> bad_lines; ///< those that were passed over: "FILE:LINE: what is wrong"
};

struct EncoderConfig {
  std::string field = "text"; ///< of a JSON object
  BadLines bad_lines = BadLines::kFail;
  std::size_t largest_document = std::size_t{1} << 30; ///< as the corpus has it, for messages
};

/// Encodes documents; empty ones are dropped. Immutable, so that several threads may use one.
///
/// A JSON object gives the text in the named field, or, where it has no such field, "prompt" and
/// "completion" joined: then the loss counts the completion and the end of the document only.
class DocumentEncoder {
 public:
  /// `tokenizer` must outlive the encoder.
  DocumentEncoder(const Tokenizer& tokenizer, EncoderConfig config);

  /// Throws Error that names the file and the line.
  EncodedSlice encode(const CorpusSlice& slice) const;

 private:
  EncodedSlice encode_lines(const CorpusSlice& slice) const;
  EncodedDocument encode_text(std::string_view text) const;
  EncodedDocument encode_record(std::string_view line) const;

  const Tokenizer* tokenizer_;
  EncoderConfig config_;
};

} // namespace baton
