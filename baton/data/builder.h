// SPDX-License-Identifier: Apache-2.0
// Builds a dataset of tokens from text, JSON lines and folders of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "baton/data/corpus.h"

namespace baton {

struct BuildConfig {
  CorpusConfig corpus;
  std::string output; ///< prefix of the dataset's files
  std::string tokenizer = "byte";
  std::string field = "text"; ///< of a JSON object
  int threads = 0;            ///< 0: one for each processor
  double holdout = 0.0;       ///< share of the documents that goes to OUTPUT_valid
  std::uint64_t seed = 0;     ///< of the choice of those documents
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
  std::int64_t bytes = 0;                 ///< of text read
  double seconds = 0.0;
};

/// Reads, encodes on several threads and writes; the files do not depend on the number of threads.
/// Throws Error for input that is missing, empty, binary or damaged, and leaves nothing behind
/// then.
BuildReport build_dataset(const BuildConfig& config);

} // namespace baton
