// SPDX-License-Identifier: Apache-2.0
// Writes a dataset of tokens as Megatron's `.bin` and `.idx`, and a loss mask where there is one.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>

#include "baton/base/file.h"
#include "baton/data/indexed_dataset.h"

namespace baton {

struct DatasetWriterConfig {
  TokenType type = TokenType::kUint16; ///< an integer type
  /// Tokens of a sequence of the index: a document that is longer becomes several. The format's
  /// lengths have 31 bits.
  std::int64_t longest_sequence = std::numeric_limits<std::int32_t>::max();
};

/// Appends documents; nothing appears under the final names before commit(), and a writer that is
/// destroyed without it leaves nothing behind. A killed one leaves files that end in ".part", which
/// the next writer of the prefix replaces.
class DatasetWriter {
 public:
  /// Throws Error for a type that cannot hold token ids.
  DatasetWriter(const std::string& prefix, const DatasetWriterConfig& config);

  /// Appends one document. `mask` is empty (the loss counts every token) or has a byte, 0 or 1, for
  /// each token. Throws Error when an id does not fit the type.
  void add_document(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> mask);

  std::int64_t num_documents() const { return index_.num_documents(); }
  std::int64_t num_tokens() const { return num_tokens_; }
  bool has_mask() const { return mask_.has_value(); }
  const DatasetPaths& paths() const { return paths_; }

  /// Writes all that is left and syncs it, aside: a full disk ends here, with the older dataset as
  /// it was.
  void finish();
  /// After finish(): takes an older dataset's index and mask away.
  void retire_older();
  /// After retire_older(): gives the files their names, the index last. A crash between the two
  /// leaves no dataset, never a wrong one.
  void publish();

  /// All three.
  void commit();

 private:
  void append_mask(std::size_t count, std::span<const std::uint8_t> mask);
  void flush();

  DatasetPaths paths_;
  DatasetWriterConfig config_;
  FileWriter tokens_;
  std::optional<FileWriter> mask_; // begun with the first document that has one
  std::optional<FileWriter> index_file_;
  DatasetIndexWriter index_;
  std::int64_t num_tokens_ = 0;
  std::string token_buffer_;
  std::string mask_buffer_;
};

/// Removes what killed writers of these files left.
void remove_parts(const DatasetPaths& paths);

} // namespace baton
