// SPDX-License-Identifier: Apache-2.0
// Finds the text of a corpus: files in folders, documents in files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "baton/data/text_reader.h"

namespace baton {

enum class CorpusFormat {
  kAuto, ///< JSON lines for .jsonl, .ndjson and .json, text otherwise
  kText,
  kJsonLines, ///< a JSON object a line
};

struct CorpusConfig {
  std::vector<std::string> inputs; ///< files and folders; gzip and Zstandard files by their content
  CorpusFormat format = CorpusFormat::kAuto;
  DocumentSplit split;
  /// Bytes of a document, or of a line of JSON. Its ids must fit the format's 31 bits, and memory
  /// is at stake before that.
  std::size_t largest_document = std::size_t{1} << 30;
};

/// A part of a file: one text document, or whole lines of JSON.
struct CorpusSlice {
  std::shared_ptr<const std::string> path;
  TextPart part;
  bool json_lines = false;
};

/// Slices that one thread encodes at a time.
struct CorpusBatch {
  std::vector<CorpusSlice> slices; ///< empty at the end of the corpus
  std::int64_t file_bytes = 0;     ///< of the files, read up to the end of this batch
};

/// Walks a corpus in a fixed order: inputs as given, the files of a folder and of the folders in it
/// sorted by path, without hidden ones. Files stream through, whatever their size.
class Corpus {
 public:
  /// Throws Error for an input that is missing and for a folder without files.
  explicit Corpus(const CorpusConfig& config);

  /// The next slices, together at least `bytes` long unless the corpus ends. Throws Error for a
  /// file given by name that is empty or not text; in a folder such a file is passed over and
  /// listed.
  CorpusBatch next(std::size_t bytes);

  /// Size of all files as they lie; that of a pipe counts as 0.
  std::int64_t total_bytes() const { return total_bytes_; }
  /// Files of folders that were passed over so far.
  const std::vector<std::string>& skipped_files() const { return skipped_files_; }

 private:
  struct File {
    std::string path;
    bool named = false; // given by name, not found in a folder
  };

  void add_folder(const std::string& path);
  bool open_next();

  CorpusConfig config_;
  std::vector<File> files_;
  std::size_t next_file_ = 0;
  std::optional<TextReader> open_;
  std::shared_ptr<const std::string> path_; // of the open file
  bool json_lines_ = false;
  std::int64_t finished_bytes_ = 0; // of the files before it
  std::int64_t total_bytes_ = 0;
  std::vector<std::string> skipped_files_;
};

} // namespace baton
