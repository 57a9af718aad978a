// SPDX-License-Identifier: Apache-2.0
#include "baton/data/builder.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <sstream>
#include <thread>
#include <utility>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/base/log.h"
#include "baton/base/progress.h"
#include "baton/data/build_mark.h"
#include "baton/data/dataset_writer.h"
#include "baton/data/encoding_pipeline.h"
#include "baton/data/holdout.h"
#include "baton/data/tokenizer.h"

namespace baton {
namespace {

// Bad lines that are named one by one; the others are counted.
constexpr std::int64_t kNamedBadLines = 10;

std::string train_prefix(const std::string& output) {
  return output + "_train";
}

std::string valid_prefix(const std::string& output) {
  return output + "_valid";
}

// The datasets that the documents are dealt to.
class Outputs {
 public:
  Outputs(const BuildConfig& config, TokenType type)
      : config_(config), output_(checked_output(config)), holdout_(config.holdout, config.seed) {
    std::vector<std::string> prefixes{output_};
    if (config.holdout > 0.0) {
      prefixes = {train_prefix(output_), valid_prefix(output_)};
    }
    prepare_place(prefixes);
    DatasetWriterConfig writer_config{.type = type};
    if (config.longest_sequence != 0) {
      writer_config.longest_sequence = config.longest_sequence;
    }
    for (const std::string& prefix : prefixes) {
      writers_.push_back(std::make_unique<DatasetWriter>(prefix, writer_config));
    }
  }

  void add(const EncodedDocument& document) {
    DatasetWriter& writer =
        holdout_.contains(num_documents_) ? *writers_.back() : *writers_.front();
    writer.add_document(document.tokens, document.mask);
    ++num_documents_;
    num_tokens_ += static_cast<std::int64_t>(document.tokens.size());
  }

  std::int64_t num_tokens() const { return num_tokens_; }

  std::vector<BuildReport::Dataset> commit() {
    check_shares();
    // Step by step for all of them, so that at no moment an old dataset lies beside a new one that
    // holds the same documents.
    for (const auto& writer : writers_) {
      writer->finish();
    }
    for (const auto& writer : writers_) {
      writer->retire_older();
    }
    std::vector<BuildReport::Dataset> datasets;
    for (const auto& writer : writers_) {
      writer->publish();
      datasets.push_back(
          {.prefix = writer->paths().prefix,
           .documents = writer->num_documents(),
           .tokens = writer->num_tokens(),
           .masked = writer->has_mask()});
    }
    return datasets;
  }

 private:
  static std::string checked_output(const BuildConfig& config) {
    if (config.output.empty()) {
      throw Error("no output: name the prefix of the files to write");
    }
    return DatasetPaths(config.output).prefix;
  }

  void prepare_place(const std::vector<std::string>& prefixes) {
    if (!BuildMark::exists(output_)) {
      check_free(prefixes);
    }
    const std::string folder = std::filesystem::path(output_).parent_path().string();
    if (!folder.empty()) {
      make_folders(folder);
    }
    mark_.emplace(output_);
    if (!mark_->was_left()) {
      check_free(prefixes);
      return;
    }
    // The killed build had found the place free, or was told to overwrite what was there.
    log_info(output_ + ": an earlier build was killed, begun anew");
    for (const std::string& prefix : {output_, train_prefix(output_), valid_prefix(output_)}) {
      remove_parts(DatasetPaths(prefix));
    }
  }

  void check_free(const std::vector<std::string>& prefixes) const {
    for (const std::string& prefix : prefixes) {
      const DatasetPaths paths(prefix);
      for (const std::string& path : {paths.tokens, paths.index}) {
        if (!config_.overwrite && std::filesystem::exists(path)) {
          throw Error(path + ": exists already (--overwrite replaces it)");
        }
      }
    }
  }

  void check_shares() const {
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
  }

  const BuildConfig& config_;
  std::string output_;
  Holdout holdout_;
  std::optional<BuildMark> mark_; // outlives the writers, which remove what they wrote
  std::vector<std::unique_ptr<DatasetWriter>> writers_;
  std::int64_t num_documents_ = 0;
  std::int64_t num_tokens_ = 0;
};

std::size_t thread_count(int wanted) {
  if (wanted < 0) {
    throw Error("threads must not be negative: " + std::to_string(wanted));
  }
  return wanted > 0 ? static_cast<std::size_t>(wanted)
                    : std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
}

void name_bad_lines(const std::vector<std::string>& lines, std::int64_t& count) {
  for (const std::string& line : lines) {
    if (count++ < kNamedBadLines) {
      log_warning(line + "; passed over");
    }
  }
}

void encode_corpus(
    const BuildConfig& config,
    const Tokenizer& tokenizer,
    Corpus& corpus,
    Outputs& outputs,
    BuildReport& report) {
  const DocumentEncoder encoder(
      tokenizer,
      {.field = config.field,
       .bad_lines = config.bad_lines,
       .largest_document = config.corpus.largest_document});
  ProgressOptions options;
  options.label = "build";
  options.unit = "bytes";
  options.total = corpus.total_bytes();
  Progress progress(options);
  EncodingPipeline pipeline(corpus, encoder, thread_count(config.threads));
  while (const std::optional<EncodedBatch> batch = pipeline.next()) {
    for (const EncodedDocument& document : batch->documents) {
      outputs.add(document);
    }
    name_bad_lines(batch->bad_lines, report.bad_lines);
    report.bytes += batch->text_bytes;
    progress.update(
        batch->file_bytes, count_text(static_cast<double>(outputs.num_tokens())) + " tokens");
  }
  progress.finish();
}

} // namespace

BuildReport build_dataset(const BuildConfig& config) {
  const auto begin = std::chrono::steady_clock::now();
  const std::unique_ptr<const Tokenizer> tokenizer = make_tokenizer(config.tokenizer);
  Corpus corpus(config.corpus);
  Outputs outputs(config, config.type.value_or(token_type_for(tokenizer->vocab_size())));
  BuildReport report;
  encode_corpus(config, *tokenizer, corpus, outputs, report);
  report.datasets = outputs.commit();
  report.skipped_files = corpus.skipped_files();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  report.seconds = elapsed.count();
  return report;
}

} // namespace baton
