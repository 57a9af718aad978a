// SPDX-License-Identifier: Apache-2.0
// Reads and encodes a corpus on several threads and hands it out in its own order.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "baton/data/corpus.h"
#include "baton/data/document_encoder.h"

namespace baton {

/// The documents of a batch of slices.
struct EncodedBatch {
  std::vector<EncodedDocument> documents;
  std::vector<std::string> bad_lines;
  std::int64_t text_bytes = 0;
  std::int64_t file_bytes = 0; ///< of the files, read up to the end of this batch
};

/// Each thread reads a batch, one thread at a time, and encodes it beside the others. At most two
/// batches a thread are held, however long the corpus is.
class EncodingPipeline {
 public:
  /// Corpus and encoder must outlive the pipeline, and nothing else may use the corpus meanwhile.
  EncodingPipeline(Corpus& corpus, const DocumentEncoder& encoder, std::size_t threads);
  ~EncodingPipeline();
  EncodingPipeline(const EncodingPipeline&) = delete;
  EncodingPipeline& operator=(const EncodingPipeline&) = delete;

  /// The next batch in the order of the corpus; nothing at the end. An error of reading or encoding
  /// is thrown in its place, after all that comes before it.
  std::optional<EncodedBatch> next();

 private:
  void work();
  bool wait_for_room();
  bool read(CorpusBatch& batch, std::promise<EncodedBatch>& promise);
  EncodedBatch encode(const CorpusBatch& batch) const;

  Corpus* corpus_;
  const DocumentEncoder* encoder_;
  std::size_t capacity_;
  std::mutex reading_; // held while the corpus is read, so that batches queue in its order
  std::mutex mutex_;   // of what follows
  std::condition_variable changed_;
  std::deque<std::future<EncodedBatch>> batches_;
  bool ended_ = false; // nothing more will be read
  std::vector<std::thread> threads_;
};

} // namespace baton
