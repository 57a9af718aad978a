// SPDX-License-Identifier: Apache-2.0
// Builds a dataset of tokens from text, JSON lines and folders of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "baton/data/corpus.h"
#include "baton/data/dataset_index.h"
#include "baton/data/document_encoder.h"

namespace baton {

struct BuildConfig {
  CorpusConfig corpus;
  std::string output; ///< prefix of the dataset's files
  std::string tokenizer = "byte";
  std::string field = "text"; ///< of a JSON object
  BadLines bad_lines = BadLines::kFail;
  std::optional<TokenType> type; ///< absent: by the size of the vocabulary
  /// Tokens of a sequence of the index: a longer document becomes several. 0: as long as they come.
  std::int64_t longest_sequence = 0;
  int threads = 0;        ///< 0: one for each processor
  double holdout = 0.0;   ///< share of the documents that goes to OUTPUT_valid
  std::uint64_t seed = 0; ///< of the choice of those documents
  bool overwrite = false;
};

struct BuildReport {
  struct Dataset {
    std::string prefix;
    std::int64_t documents = 0;
    std::int64_t tokens = 0;
    bool masked = false;
  };

  /// OUTPUT alone, or OUTPUT_train and OUTPUT_valid.
  std::vector<Dataset> datasets;
  std::vector<std::string> skipped_files; ///< empty or binary ones in folders
  std::int64_t bad_lines = 0;             ///< of JSON, passed over
  std::int64_t bytes = 0;                 ///< of text read
  double seconds = 0.0;
};

/// Reads, encodes on several threads and writes; the files do not depend on the number of threads,
/// and memory depends on the longest document and 4 bytes a document, not on the input's size. The
/// first lines that are passed over are named in the log. Throws Error for input that is missing,
/// empty, binary or damaged, and leaves nothing behind then. A killed build leaves OUTPUT.building
/// and files that end in ".part"; the same build given again replaces them.
BuildReport build_dataset(const BuildConfig& config);

} // namespace baton
