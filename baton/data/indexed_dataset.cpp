// SPDX-License-Identifier: Apache-2.0
#include "baton/data/indexed_dataset.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string_view>

#include "baton/base/error.h"

namespace baton {
namespace {

constexpr std::string_view kSuffixes[] = {".mask.bin", ".bin", ".idx"};

std::string without_suffix(const std::string& path) {
  for (const std::string_view suffix : kSuffixes) {
    if (path.size() > suffix.size() && path.ends_with(suffix)) {
      return path.substr(0, path.size() - suffix.size());
    }
  }
  return path;
}

// The place of the first id outside [0, vocab_size), or `count`.
template <class Stored>
std::size_t copy_ids(const std::byte* data, std::int64_t vocab_size, std::span<std::int64_t> out) {
  bool good = true;
  for (std::size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, data + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<std::int64_t>(value);
    good = good && out[i] >= 0 && out[i] < vocab_size;
  }
  if (good) {
    return out.size();
  }
  std::size_t place = 0;
  while (out[place] >= 0 && out[place] < vocab_size) {
    ++place;
  }
  return place;
}

std::size_t copy_ids_of(
    TokenType type,
    const std::byte* data,
    std::int64_t vocab_size,
    std::span<std::int64_t> out) {
  switch (type) {
    case TokenType::kUint8:
      return copy_ids<std::uint8_t>(data, vocab_size, out);
    case TokenType::kInt8:
      return copy_ids<std::int8_t>(data, vocab_size, out);
    case TokenType::kInt16:
      return copy_ids<std::int16_t>(data, vocab_size, out);
    case TokenType::kUint16:
      return copy_ids<std::uint16_t>(data, vocab_size, out);
    case TokenType::kInt32:
      return copy_ids<std::int32_t>(data, vocab_size, out);
    case TokenType::kInt64:
      return copy_ids<std::int64_t>(data, vocab_size, out);
    case TokenType::kFloat32:
    case TokenType::kFloat64:
      break; // refused when the dataset was opened
  }
  throw Error(std::string(token_type_name(type)) + " values are not token ids");
}

} // namespace

DatasetPaths::DatasetPaths(const std::string& given)
    : prefix(without_suffix(given)),
      tokens(prefix + ".bin"),
      index(prefix + ".idx"),
      mask(prefix + ".mask.bin") {}

IndexedDataset::IndexedDataset(const std::string& prefix)
    : paths_(prefix),
      index_file_(paths_.index),
      token_file_(paths_.tokens),
      index_(index_file_.bytes(), token_file_.size(), paths_.index) {
  index_file_.release(); // the check read all of it
  if (type() == TokenType::kFloat32 || type() == TokenType::kFloat64) {
    throw Error(
        paths_.index + ": holds " + std::string(token_type_name(type())) +
        " values, which are not token ids");
  }
  if (std::filesystem::exists(paths_.mask)) {
    mask_file_.emplace(paths_.mask);
    if (mask_file_->size() != static_cast<std::uint64_t>(num_tokens())) {
      throw Error(
          paths_.mask + ": has " + std::to_string(mask_file_->size()) +
          " bytes, must have one for each of the " + std::to_string(num_tokens()) + " tokens");
    }
  }
}

std::int64_t
IndexedDataset::checked_start(std::int64_t document, std::int64_t first, std::size_t count) const {
  if (document < 0 || document >= num_documents()) {
    throw Error(
        paths_.index + ": has no document " + std::to_string(document) + ", it holds " +
        std::to_string(num_documents()));
  }
  const std::int64_t length = document_length(document);
  if (first < 0 || first > length || count > static_cast<std::uint64_t>(length - first)) {
    throw Error(
        paths_.index + ": document " + std::to_string(document) + " has " + std::to_string(length) +
        " tokens, asked for " + std::to_string(count) + " from " + std::to_string(first));
  }
  return index_.document_start(document) + first;
}

void IndexedDataset::read_tokens(
    std::int64_t document,
    std::int64_t first,
    std::int64_t vocab_size,
    std::span<std::int64_t> out) const {
  const auto start = static_cast<std::size_t>(checked_start(document, first, out.size()));
  const std::byte* data = token_file_.bytes().data() + start * token_size(type());
  const std::size_t bad = copy_ids_of(type(), data, vocab_size, out);
  if (bad != out.size()) {
    throw Error(
        paths_.tokens + ": token " + std::to_string(first + static_cast<std::int64_t>(bad)) +
        " of document " + std::to_string(document) + " is " + std::to_string(out[bad]) +
        ", outside the vocabulary of " + std::to_string(vocab_size));
  }
}

std::int64_t IndexedDataset::count_unmasked() const {
  if (!mask_file_) {
    return num_tokens();
  }
  const std::span<const std::byte> bytes = mask_file_->bytes();
  return static_cast<std::int64_t>(bytes.size()) -
         std::count(bytes.begin(), bytes.end(), std::byte{0});
}

void IndexedDataset::read_mask(std::int64_t document, std::int64_t first, std::span<float> out)
    const {
  const auto start = static_cast<std::size_t>(checked_start(document, first, out.size()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int value = mask_file_ ? static_cast<int>(mask_file_->bytes()[start + i]) : 1;
    if (value > 1) {
      throw Error(
          paths_.mask + ": byte " + std::to_string(start + i) + " (document " +
          std::to_string(document) + ") is " + std::to_string(value) + ", must be 0 or 1");
    }
    out[i] = static_cast<float>(value);
  }
}

} // namespace baton
