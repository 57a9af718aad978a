// SPDX-License-Identifier: Apache-2.0
// Writes a dataset of tokens as Megatron's `.bin` and `.idx`, and a loss mask where there is one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "baton/base/file.h"
#include "baton/data/indexed_dataset.h"

namespace baton {

/// Appends documents; nothing appears under the final names before commit(), and a writer that is
/// destroyed without it leaves nothing behind.
class DatasetWriter {
 public:
  /// `type` must be an integer type.
  DatasetWriter(const std::string& prefix, TokenType type);

  /// Appends one document. `mask` is empty (the loss counts every token) or has a byte, 0 or 1, for
  /// each token. Throws Error when an id does not fit the type.
  void add_document(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> mask);

  std::int64_t num_documents() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t num_tokens() const { return num_tokens_; }
  bool has_mask() const { return mask_.has_value(); }
  const DatasetPaths& paths() const { return paths_; }

  /// Syncs the files, replaces an older dataset and gives them their names, index last: a crash in
  /// between leaves no dataset, never a wrong one.
  void commit();

 private:
  void append_mask(std::size_t count, std::span<const std::uint8_t> mask);
  void flush();

  DatasetPaths paths_;
  TokenType type_;
  FileWriter tokens_;
  std::optional<FileWriter> mask_; // begun with the first document that has one
  std::vector<std::int32_t> lengths_;
  std::int64_t num_tokens_ = 0;
  std::string token_buffer_;
  std::string mask_buffer_;
};

} // namespace baton
