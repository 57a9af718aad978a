// SPDX-License-Identifier: Apache-2.0
#include "baton/data/corpus.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>

#include "baton/base/error.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLinePrefix = "line=";
// Where a zero byte marks a file as something other than text.
constexpr std::size_t kBinaryProbe = 8192;

bool has_json_suffix(const std::string& path) {
  return path.ends_with(".jsonl") || path.ends_with(".ndjson") || path.ends_with(".json");
}

// Why a file is no text, or nothing.
std::optional<std::string> objection(const MappedFile& file) {
  if (file.size() == 0) {
    return "is empty";
  }
  const std::size_t zero = file.text().substr(0, kBinaryProbe).find('\0');
  if (zero != std::string_view::npos) {
    return "looks like binary data, not text (a zero byte at offset " + std::to_string(zero) + ")";
  }
  return std::nullopt;
}

// The end of the line that begins at `begin`, behind its line break.
std::size_t end_of_line(std::string_view text, std::size_t begin) {
  const std::size_t at = text.find('\n', begin);
  return at == std::string_view::npos ? text.size() : at + 1;
}

bool is_separator(std::string_view line, const DocumentSplit& split) {
  if (split.kind == DocumentSplit::Kind::kBlankLine) {
    return line.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
  }
  while (line.ends_with('\n') || line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  return line == split.line;
}

} // namespace

DocumentSplit parse_document_split(const std::string& text) {
  if (text == "file") {
    return {};
  }
  if (text == "blank-line") {
    return {DocumentSplit::Kind::kBlankLine, ""};
  }
  if (text.starts_with(kLinePrefix) && text.size() > kLinePrefix.size()) {
    return {DocumentSplit::Kind::kLine, text.substr(kLinePrefix.size())};
  }
  throw Error(
      "documents are split by \"file\", \"blank-line\" or \"line=TEXT\", not by \"" + text + "\"");
}

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
    auto opened = std::make_shared<const MappedFile>(file.path);
    const std::optional<std::string> reason = objection(*opened);
    if (!reason) {
      opened->expect_sequential_reads();
      open_ = std::move(opened);
      offset_ = 0;
      json_lines_ = config_.format == CorpusFormat::kAuto
                        ? has_json_suffix(file.path)
                        : config_.format == CorpusFormat::kJsonLines;
      return true;
    }
    if (file.named) {
      throw Error(file.path + ": " + *reason);
    }
    skipped_files_.push_back(file.path);
  }
  return false;
}

std::vector<CorpusSlice> Corpus::next(std::size_t bytes) {
  std::vector<CorpusSlice> slices;
  std::size_t total = 0;
  while (total < bytes) {
    if (!open_ && !open_next()) {
      break;
    }
    CorpusSlice slice = next_slice(bytes - total);
    if (offset_ >= open_->size()) {
      open_.reset();
    }
    total += slice.end - slice.begin;
    if (slice.begin < slice.end) {
      slices.push_back(std::move(slice));
    }
  }
  return slices;
}

CorpusSlice Corpus::next_slice(std::size_t bytes) {
  CorpusSlice slice{.file = open_, .begin = offset_, .end = 0, .json_lines = json_lines_};
  if (json_lines_) {
    const std::size_t wanted = std::min(bytes, open_->size() - offset_);
    slice.end = end_of_line(open_->text(), offset_ + wanted - 1);
    offset_ = slice.end;
    return slice;
  }
  if (config_.split.kind == DocumentSplit::Kind::kFile) {
    slice.end = open_->size();
    offset_ = slice.end;
    return slice;
  }
  // Blank documents between two separators are passed over here.
  const std::string_view text = open_->text();
  while (offset_ < text.size()) {
    const std::size_t line = offset_;
    offset_ = end_of_line(text, line);
    if (is_separator(text.substr(line, offset_ - line), config_.split)) {
      if (slice.begin < line) {
        slice.end = line;
        return slice;
      }
      slice.begin = offset_;
    }
  }
  slice.end = text.size();
  return slice;
}

} // namespace baton
