// SPDX-License-Identifier: Apache-2.0
// Reads a dataset of tokens: Megatron's `.bin` and `.idx`, and an optional loss mask.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "baton/data/dataset_index.h"
#include "baton/data/mapped_file.h"

namespace baton {

/// The files of a dataset by its prefix ("corpus" for corpus.bin and corpus.idx).
struct DatasetPaths {
  explicit DatasetPaths(const std::string& prefix);

  std::string prefix; ///< without ".bin", ".idx" or ".mask.bin", with which it may be given
  std::string tokens; ///< PREFIX.bin
  std::string index;  ///< PREFIX.idx
  std::string mask; ///< PREFIX.mask.bin: one byte a token, 1 where the loss counts it, 0 elsewhere
};

/// Memory-mapped documents of tokens. All methods may be called from several threads at once.
class IndexedDataset {
 public:
  /// Opens and checks the files. Throws Error that names the file and what is wrong with it.
  explicit IndexedDataset(const std::string& prefix);

  std::int64_t num_documents() const { return index_.num_documents(); }
  std::int64_t num_sequences() const { return index_.num_sequences(); }
  std::int64_t num_tokens() const { return index_.num_tokens(); }
  std::int64_t document_length(std::int64_t document) const {
    return index_.document_length(document);
  }
  std::int64_t sequence_length(std::int64_t sequence) const {
    return index_.sequence_length(sequence);
  }
  TokenType type() const { return index_.type(); }
  bool has_mask() const { return mask_file_.has_value(); }
  const DatasetPaths& paths() const { return paths_; }

  /// Copies tokens [first, first + out.size()) of a document. Throws Error that names the file, the
  /// document and the id when an id is not in [0, vocab_size).
  void read_tokens(
      std::int64_t document,
      std::int64_t first,
      std::int64_t vocab_size,
      std::span<std::int64_t> out) const;

  /// Tokens that the loss counts; all of them without a mask file.
  std::int64_t count_unmasked() const;

  /// Copies the loss mask of the same tokens as 0 or 1; all 1 without a mask file.
  void read_mask(std::int64_t document, std::int64_t first, std::span<float> out) const;

 private:
  std::int64_t checked_start(std::int64_t document, std::int64_t first, std::size_t count) const;

  DatasetPaths paths_;
  MappedFile index_file_;
  MappedFile token_file_;
  DatasetIndex index_;
  std::optional<MappedFile> mask_file_;
};

} // namespace baton
