// SPDX-License-Identifier: Apache-2.0
#include "baton/data/corpus.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "baton/base/error.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

bool has_json_suffix(std::string_view path) {
  path = without_compression_suffix(path);
  return path.ends_with(".jsonl") || path.ends_with(".ndjson") || path.ends_with(".json");
}

} // namespace

Corpus::Corpus(const CorpusConfig& config) : config_(config) {
  if (config.inputs.empty()) {
    throw Error("no input: name a file or a folder");
  }
  for (const std::string& input : config.inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status)) {
      throw Error(input + ": cannot open: " + (error ? error.message() : "no such file"));
    }
    if (fs::is_directory(status)) {
      add_folder(input);
    } else {
      files_.push_back({.path = input, .named = true});
    }
  }
  for (const File& file : files_) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(file.path, error);
    total_bytes_ += error ? 0 : static_cast<std::int64_t>(size);
  }
}

void Corpus::add_folder(const std::string& path) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored; // a broken link is no regular file
    if (entry->path().filename().string().starts_with('.')) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(ignored)) {
      found.push_back(entry->path().string());
    }
  }
  if (error) {
    throw Error(path + ": cannot read the folder: " + error.message());
  }
  if (found.empty()) {
    throw Error(path + ": no files in this folder");
  }
  std::sort(found.begin(), found.end());
  for (std::string& file : found) {
    files_.push_back({.path = std::move(file), .named = false});
  }
}

bool Corpus::open_next() {
  while (next_file_ < files_.size()) {
    const File& file = files_[next_file_++];
    open_.emplace(open_text(file.path), file.path, config_.largest_document);
    const std::optional<std::string> reason = open_->objection();
    if (!reason) {
      path_ = std::make_shared<const std::string>(file.path);
      json_lines_ = config_.format == CorpusFormat::kAuto
                        ? has_json_suffix(file.path)
                        : config_.format == CorpusFormat::kJsonLines;
      return true;
    }
    if (file.named) {
      throw Error(file.path + ": " + *reason);
    }
    finished_bytes_ += open_->consumed();
    skipped_files_.push_back(file.path);
    open_.reset();
  }
  return false;
}

CorpusBatch Corpus::next(std::size_t bytes) {
  CorpusBatch batch;
  std::size_t total = 0;
  while (total < bytes && (open_ || open_next())) {
    std::optional<TextPart> part =
        json_lines_ ? open_->next_lines(bytes - total) : open_->next_document(config_.split);
    if (!part) {
      finished_bytes_ += open_->consumed();
      open_.reset();
      continue;
    }
    total += part->text.size();
    batch.slices.push_back({.path = path_, .part = std::move(*part), .json_lines = json_lines_});
  }
  batch.file_bytes = finished_bytes_ + (open_ ? open_->consumed() : 0);
  return batch;
}

} // namespace baton
