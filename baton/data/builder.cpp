// SPDX-License-Identifier: Apache-2.0
#include "baton/data/builder.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <exception>
#include <filesystem>
#include <future>
#include <iterator>
#include <memory>
#include <sstream>
#include <thread>
#include <utility>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/base/progress.h"
#include "baton/data/dataset_writer.h"
#include "baton/data/document_encoder.h"
#include "baton/data/holdout.h"
#include "baton/data/tokenizer.h"

namespace baton {
namespace {

// Text that one thread encodes at a time.
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

struct EncodedBatch {
  std::vector<EncodedDocument> documents;
  std::int64_t bytes = 0;
};

// The datasets that the documents are dealt to.
class Outputs {
 public:
  Outputs(const BuildConfig& config, TokenType type)
      : config_(config), holdout_(config.holdout, config.seed) {
    if (config.output.empty()) {
      throw Error("no output: name the prefix of the files to write");
    }
    const DatasetPaths paths(config.output);
    std::vector<std::string> prefixes{paths.prefix};
    if (config.holdout > 0.0) {
      prefixes = {paths.prefix + "_train", paths.prefix + "_valid"};
    }
    for (const std::string& prefix : prefixes) {
      check_free(DatasetPaths(prefix));
    }
    const std::string folder = std::filesystem::path(paths.prefix).parent_path().string();
    if (!folder.empty()) {
      make_folders(folder);
    }
    for (const std::string& prefix : prefixes) {
      writers_.push_back(std::make_unique<DatasetWriter>(prefix, type));
    }
  }

  void add(const EncodedDocument& document) {
    DatasetWriter& writer =
        holdout_.contains(num_documents_) ? *writers_.back() : *writers_.front();
    writer.add_document(document.tokens, document.mask);
    ++num_documents_;
  }

  std::vector<BuildReport::Dataset> commit() {
    if (num_documents_ == 0) {
      throw Error("the input holds no documents");
    }
    for (const auto& writer : writers_) {
      if (writer->num_documents() == 0) {
        std::ostringstream message;
        message << "a held-out share of " << config_.holdout << " of " << num_documents_
                << " documents leaves none for " << writer->paths().prefix
                << "; choose another share, or split the text into more documents";
        throw Error(message.str());
      }
    }
    std::vector<BuildReport::Dataset> datasets;
    for (const auto& writer : writers_) {
      writer->commit();
      datasets.push_back(
          {.prefix = writer->paths().prefix,
           .documents = writer->num_documents(),
           .tokens = writer->num_tokens(),
           .masked = writer->has_mask()});
    }
    return datasets;
  }

 private:
  void check_free(const DatasetPaths& paths) const {
    for (const std::string& path : {paths.tokens, paths.index}) {
      if (!config_.overwrite && std::filesystem::exists(path)) {
        throw Error(path + ": exists already (--overwrite replaces it)");
      }
    }
  }

  const BuildConfig& config_;
  Holdout holdout_;
  std::vector<std::unique_ptr<DatasetWriter>> writers_;
  std::int64_t num_documents_ = 0;
};

EncodedBatch encode_batch(const DocumentEncoder& encoder, const std::vector<CorpusSlice>& slices) {
  EncodedBatch batch;
  for (const CorpusSlice& slice : slices) {
    std::vector<EncodedDocument> documents = encoder.encode(slice);
    std::move(documents.begin(), documents.end(), std::back_inserter(batch.documents));
    batch.bytes += static_cast<std::int64_t>(slice.end - slice.begin);
  }
  return batch;
}

std::size_t thread_count(int wanted) {
  if (wanted < 0) {
    throw Error("threads must not be negative: " + std::to_string(wanted));
  }
  return wanted > 0 ? static_cast<std::size_t>(wanted)
                    : std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

} // namespace

BuildReport build_dataset(const BuildConfig& config) {
  const auto begin = std::chrono::steady_clock::now();
  const std::size_t threads = thread_count(config.threads);
  const std::unique_ptr<const Tokenizer> tokenizer = make_tokenizer(config.tokenizer);
  const DocumentEncoder encoder(*tokenizer, config.field);
  Corpus corpus(config.corpus);
  Outputs outputs(config, token_type_for(tokenizer->vocab_size()));
  ProgressOptions options;
  options.label = "build";
  options.unit = "bytes";
  options.total = corpus.total_bytes();
  Progress progress(options);

  BuildReport report;
  // Batches are written in the order in which they were read, whichever is encoded first.
  std::deque<std::future<EncodedBatch>> batches;
  const auto write_oldest = [&] {
    const EncodedBatch batch = batches.front().get();
    batches.pop_front();
    for (const EncodedDocument& document : batch.documents) {
      outputs.add(document);
    }
    report.bytes += batch.bytes;
    progress.update(report.bytes);
  };
  std::exception_ptr unreadable;
  for (;;) {
    std::vector<CorpusSlice> slices;
    try {
      slices = corpus.next(kBatchBytes);
    } catch (...) {
      unreadable = std::current_exception();
    }
    if (slices.empty()) {
      break;
    }
    if (batches.size() == threads) {
      write_oldest();
    }
    batches.push_back(std::async(std::launch::async, [&encoder, slices = std::move(slices)] {
      return encode_batch(encoder, slices);
    }));
  }
  while (!batches.empty()) {
    write_oldest();
  }
  if (unreadable) {
    // Only now, so that an error in earlier text is the one that is reported.
    std::rethrow_exception(unreadable);
  }
  progress.update(std::max(options.total, report.bytes)); // separators count, too
  progress.finish();
  report.datasets = outputs.commit();
  report.skipped_files = corpus.skipped_files();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  report.seconds = elapsed.count();
  return report;
}

} // namespace baton
