// SPDX-License-Identifier: Apache-2.0
#include "baton/data/dataset_writer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>

#include "baton/base/error.h"

namespace baton {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

// Appends ids in the stored type; the return value is the place of the first that does not fit.
template <class Stored>
std::size_t convert(std::span<const std::int32_t> tokens, std::string& stored) {
  const std::size_t begin = stored.size();
  stored.resize(begin + tokens.size() * sizeof(Stored));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto value = static_cast<Stored>(tokens[i]);
    if (static_cast<std::int64_t>(value) != tokens[i]) {
      return i;
    }
    std::memcpy(stored.data() + begin + i * sizeof(Stored), &value, sizeof(Stored));
  }
  return tokens.size();
}

std::size_t convert_to(TokenType type, std::span<const std::int32_t> tokens, std::string& stored) {
  switch (type) {
    case TokenType::kUint8:
      return convert<std::uint8_t>(tokens, stored);
    case TokenType::kInt8:
      return convert<std::int8_t>(tokens, stored);
    case TokenType::kInt16:
      return convert<std::int16_t>(tokens, stored);
    case TokenType::kUint16:
      return convert<std::uint16_t>(tokens, stored);
    case TokenType::kInt32:
      return convert<std::int32_t>(tokens, stored);
    case TokenType::kInt64:
      return convert<std::int64_t>(tokens, stored);
    case TokenType::kFloat32:
    case TokenType::kFloat64:
      break;
  }
  throw Error(std::string(token_type_name(type)) + " cannot hold token ids");
}

std::string part_of(const std::string& path) {
  return path + ".part";
}

void remove_if_there(const std::string& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) {
    throw Error(path + ": cannot remove: " + error.message());
  }
}

const DatasetWriterConfig& checked(const DatasetWriterConfig& config) {
  if (config.type == TokenType::kFloat32 || config.type == TokenType::kFloat64) {
    throw Error(std::string(token_type_name(config.type)) + " cannot hold token ids");
  }
  constexpr std::int64_t kLongest = std::numeric_limits<std::int32_t>::max();
  if (config.longest_sequence < 1 || config.longest_sequence > kLongest) {
    throw Error(
        "the longest sequence must have 1 to " + std::to_string(kLongest) +
        " tokens: " + std::to_string(config.longest_sequence));
  }
  return config;
}

} // namespace

DatasetWriter::DatasetWriter(const std::string& prefix, const DatasetWriterConfig& config)
    : paths_(prefix),
      config_(checked(config)),
      tokens_(paths_.tokens, part_of(paths_.tokens)),
      index_(config.type) {}

void DatasetWriter::add_document(
    std::span<const std::int32_t> tokens,
    std::span<const std::uint8_t> mask) {
  const std::string document = paths_.prefix + ": document " + std::to_string(num_documents());
  if (!mask.empty() && mask.size() != tokens.size()) {
    throw Error(
        document + " has " + std::to_string(tokens.size()) + " tokens and a mask of " +
        std::to_string(mask.size()));
  }
  const std::size_t bad = convert_to(config_.type, tokens, token_buffer_);
  if (bad != tokens.size()) {
    throw Error(
        document + " holds the id " + std::to_string(tokens[bad]) + ", which does not fit " +
        std::string(token_type_name(config_.type)));
  }
  append_mask(tokens.size(), mask);
  const auto length = static_cast<std::int64_t>(tokens.size());
  std::int64_t left = length;
  do { // an empty document has an empty sequence
    const std::int64_t part = std::min(left, config_.longest_sequence);
    index_.add_sequence(static_cast<std::int32_t>(part));
    left -= part;
  } while (left > 0);
  index_.end_document();
  num_tokens_ += length;
  if (token_buffer_.size() >= kBufferBytes) {
    flush();
  }
}

void DatasetWriter::append_mask(std::size_t count, std::span<const std::uint8_t> mask) {
  if (!mask.empty() && !mask_) {
    mask_.emplace(paths_.mask, part_of(paths_.mask));
    const std::string ones(kBufferBytes, '\1');
    for (auto left = static_cast<std::size_t>(num_tokens_); left > 0;) {
      const std::size_t part = std::min(left, ones.size());
      mask_->write(ones.data(), part);
      left -= part;
    }
  }
  if (!mask.empty()) {
    mask_buffer_.append(mask.begin(), mask.end());
  } else if (mask_) {
    mask_buffer_.append(count, '\1');
  }
}

void DatasetWriter::flush() {
  tokens_.write(token_buffer_);
  token_buffer_.clear();
  if (mask_) {
    mask_->write(mask_buffer_);
    mask_buffer_.clear();
  }
}

void DatasetWriter::finish() {
  flush();
  tokens_.sync();
  if (mask_) {
    mask_->sync();
  }
  index_file_.emplace(paths_.index, part_of(paths_.index));
  index_.write([this](std::string_view block) { index_file_->write(block); });
  index_file_->sync();
}

void DatasetWriter::retire_older() {
  remove_if_there(paths_.index);
  remove_if_there(paths_.mask);
  const std::filesystem::path folder = std::filesystem::path(paths_.index).parent_path();
  sync_folder(folder.empty() ? "." : folder.string());
}

void DatasetWriter::publish() {
  tokens_.commit();
  if (mask_) {
    mask_->commit();
  }
  index_file_->commit();
}

void DatasetWriter::commit() {
  finish();
  retire_older();
  publish();
}

void remove_parts(const DatasetPaths& paths) {
  for (const std::string& path : {paths.tokens, paths.mask, paths.index}) {
    remove_if_there(part_of(path));
  }
}

} // namespace baton
