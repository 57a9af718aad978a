// SPDX-License-Identifier: Apache-2.0
// Finds the text of a corpus: files in folders, documents in files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "baton/data/mapped_file.h"

namespace baton {

enum class CorpusFormat {
  kAuto, ///< JSON lines for .jsonl, .ndjson and .json, text otherwise
  kText,
  kJsonLines, ///< a JSON object a line
};

/// Where a text file's documents end. JSON lines have one document a line.
struct DocumentSplit {
  enum class Kind {
    kFile,      ///< a file is a document
    kBlankLine, ///< documents are separated by lines without text
    kLine,      ///< documents are separated by lines that are equal to `line`
  };
  Kind kind = Kind::kFile;
  std::string line;
};

/// "file", "blank-line" or "line=TEXT". Throws Error for anything else.
DocumentSplit parse_document_split(const std::string& text);

struct CorpusConfig {
  std::vector<std::string> inputs; ///< files and folders
  CorpusFormat format = CorpusFormat::kAuto;
  DocumentSplit split;
};

/// Bytes of a file: one text document, or whole lines of JSON.
struct CorpusSlice {
  std::shared_ptr<const MappedFile> file;
  std::size_t begin = 0;
  std::size_t end = 0;
  bool json_lines = false;

  std::string_view text() const { return file->text().substr(begin, end - begin); }
};

/// Walks a corpus in a fixed order: inputs as given, the files of a folder and of the folders in it
/// sorted by path, without hidden ones.
class Corpus {
 public:
  /// Throws Error for an input that is missing and for a folder without files.
  explicit Corpus(const CorpusConfig& config);

  /// The next slices, together at least `bytes` long unless the corpus ends; empty at the end.
  /// Throws Error for a file given by name that is empty or not text; in a folder such a file is
  /// passed over and listed.
  std::vector<CorpusSlice> next(std::size_t bytes);

  /// Size of all files; that of a pipe counts as 0.
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
  CorpusSlice next_slice(std::size_t bytes);

  CorpusConfig config_;
  std::vector<File> files_;
  std::size_t next_file_ = 0;
  std::shared_ptr<const MappedFile> open_;
  bool json_lines_ = false;
  std::size_t offset_ = 0; // in the open file
  std::int64_t total_bytes_ = 0;
  std::vector<std::string> skipped_files_;
};

} // namespace baton
