// SPDX-License-Identifier: Apache-2.0
#include "baton/data/dataset_index.h"

#include <bit>
#include <cstring>
#include <limits>

#include "baton/base/error.h"

namespace baton {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "the format is read as it lies in memory");

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
constexpr std::uint64_t kVersion = 1;
constexpr int kLastTypeCode = 8; // they begin with 1
constexpr std::size_t kTypeOffset = kMagic.size() + sizeof(std::uint64_t);
constexpr std::size_t kSequenceCountOffset = kTypeOffset + 1;
constexpr std::size_t kBoundaryCountOffset = kSequenceCountOffset + sizeof(std::uint64_t);
constexpr std::size_t kHeaderSize = kBoundaryCountOffset + sizeof(std::uint64_t);
constexpr std::size_t kSequenceSize = sizeof(std::int32_t) + sizeof(std::int64_t);

// The entries are unaligned in the file.
template <class Value>
Value load(std::span<const std::byte> bytes, std::size_t offset) {
  Value value;
  std::memcpy(&value, bytes.data() + offset, sizeof(Value));
  return value;
}

template <class Value>
void append(std::string& bytes, Value value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(Value));
}

} // namespace

std::size_t token_size(TokenType type) {
  switch (type) {
    case TokenType::kUint8:
    case TokenType::kInt8:
      return 1;
    case TokenType::kInt16:
    case TokenType::kUint16:
      return 2;
    case TokenType::kInt32:
    case TokenType::kFloat32:
      return 4;
    case TokenType::kInt64:
    case TokenType::kFloat64:
      return 8;
  }
  throw Error("unknown token type code " + std::to_string(static_cast<int>(type)));
}

std::string_view token_type_name(TokenType type) {
  switch (type) {
    case TokenType::kUint8:
      return "uint8";
    case TokenType::kInt8:
      return "int8";
    case TokenType::kInt16:
      return "int16";
    case TokenType::kInt32:
      return "int32";
    case TokenType::kInt64:
      return "int64";
    case TokenType::kFloat64:
      return "float64";
    case TokenType::kFloat32:
      return "float32";
    case TokenType::kUint16:
      return "uint16";
  }
  return "unknown";
}

TokenType token_type_of(std::string_view name) {
  for (int code = 1; code <= kLastTypeCode; ++code) {
    const auto type = static_cast<TokenType>(code);
    if (token_type_name(type) == name) {
      return type;
    }
  }
  throw Error("no type of token is named \"" + std::string(name) + "\"");
}

TokenType token_type_for(std::int64_t vocab_size) {
  constexpr std::int64_t kLargestForUint16 = 65500; // Megatron's limit, not 65536
  return vocab_size < kLargestForUint16 ? TokenType::kUint16 : TokenType::kInt32;
}

DatasetIndex::DatasetIndex(
    std::span<const std::byte> bytes,
    std::uint64_t bin_size,
    const std::string& name)
    : bytes_(bytes) {
  read_header(name);
  check_size(name);
  check_sequences(bin_size, name);
  check_documents(name);
}

void DatasetIndex::read_header(const std::string& name) {
  if (bytes_.size() < kMagic.size() ||
      std::memcmp(bytes_.data(), kMagic.data(), kMagic.size()) != 0) {
    throw Error(name + ": not an index of a dataset (it must begin with MMIDIDX)");
  }
  if (bytes_.size() < kHeaderSize) {
    throw Error(
        name + ": truncated: " + std::to_string(bytes_.size()) + " bytes, the header alone has " +
        std::to_string(kHeaderSize));
  }
  const auto version = load<std::uint64_t>(bytes_, kMagic.size());
  if (version != kVersion) {
    throw Error(name + ": version " + std::to_string(version) + " of the format, only 1 is known");
  }
  const auto code = load<std::uint8_t>(bytes_, kTypeOffset);
  if (code < 1 || code > kLastTypeCode) {
    throw Error(
        name + ": token type code " + std::to_string(code) + ", must be 1 to " +
        std::to_string(kLastTypeCode));
  }
  type_ = static_cast<TokenType>(code);
  const auto sequences = load<std::uint64_t>(bytes_, kSequenceCountOffset);
  const auto boundaries = load<std::uint64_t>(bytes_, kBoundaryCountOffset);
  // Counts beyond the file's own size are refused before they enter any product.
  if (sequences > bytes_.size() / kSequenceSize ||
      boundaries > bytes_.size() / sizeof(std::int64_t)) {
    throw Error(
        name + ": truncated or damaged: " + std::to_string(bytes_.size()) + " bytes cannot hold " +
        std::to_string(sequences) + " sequences and " + std::to_string(boundaries) + " boundaries");
  }
  if (boundaries == 0) {
    throw Error(name + ": damaged: no document boundaries");
  }
  num_sequences_ = static_cast<std::int64_t>(sequences);
  num_documents_ = static_cast<std::int64_t>(boundaries) - 1;
}

void DatasetIndex::check_size(const std::string& name) const {
  const auto sequences = static_cast<std::size_t>(num_sequences_);
  const auto boundaries = static_cast<std::size_t>(num_documents_ + 1);
  const std::size_t expected =
      kHeaderSize + sequences * kSequenceSize + boundaries * sizeof(std::int64_t);
  if (bytes_.size() == expected + sequences && sequences > 0) {
    throw Error(name + ": has a mode per sequence (multimodal data), which is not supported");
  }
  if (bytes_.size() != expected) {
    throw Error(
        name + ": " + (bytes_.size() < expected ? "truncated" : "damaged") + ": " +
        std::to_string(bytes_.size()) + " bytes, but its " + std::to_string(sequences) +
        " sequences and " + std::to_string(boundaries) + " boundaries take " +
        std::to_string(expected));
  }
}

void DatasetIndex::check_sequences(std::uint64_t bin_size, const std::string& name) {
  const std::size_t offsets =
      kHeaderSize + static_cast<std::size_t>(num_sequences_) * sizeof(std::int32_t);
  const auto size = static_cast<std::int64_t>(token_size(type_));
  for (std::int64_t i = 0; i < num_sequences_; ++i) {
    const auto place = static_cast<std::size_t>(i);
    const auto length = load<std::int32_t>(bytes_, kHeaderSize + place * sizeof(std::int32_t));
    const auto offset = load<std::int64_t>(bytes_, offsets + place * sizeof(std::int64_t));
    if (length < 0) {
      throw Error(
          name + ": damaged: sequence " + std::to_string(i) + " has length " +
          std::to_string(length));
    }
    if (offset != num_tokens_ * size) {
      throw Error(
          name + ": damaged: sequence " + std::to_string(i) + " begins at byte " +
          std::to_string(offset) + " and not behind the one before it, at " +
          std::to_string(num_tokens_ * size));
    }
    num_tokens_ += length;
    // Checked here and not only at the end, so that no sum of damaged lengths overflows.
    if (static_cast<std::uint64_t>(num_tokens_) > bin_size / token_size(type_)) {
      throw Error(
          name + ": sequence " + std::to_string(i) + " ends behind token " +
          std::to_string(num_tokens_) + " (" + std::string(token_type_name(type_)) +
          "), but the .bin file beside it ends after " + std::to_string(bin_size) + " bytes");
    }
  }
  const auto expected = static_cast<std::uint64_t>(num_tokens_ * size);
  if (bin_size != expected) {
    throw Error(
        name + ": its " + std::to_string(num_tokens_) + " tokens (" +
        std::string(token_type_name(type_)) + ") take " + std::to_string(expected) +
        " bytes, but the .bin file beside it has " + std::to_string(bin_size));
  }
}

void DatasetIndex::check_documents(const std::string& name) const {
  std::int64_t before = 0;
  for (std::int64_t i = 0; i <= num_documents_; ++i) {
    const std::int64_t value = boundary(i);
    const bool wrong_end =
        (i == 0 && value != 0) || (i == num_documents_ && value != num_sequences_);
    if (wrong_end || value < before || value > num_sequences_) {
      throw Error(
          name + ": damaged: document boundary " + std::to_string(i) + " is " +
          std::to_string(value) + "; boundaries must rise from 0 to the number of sequences, " +
          std::to_string(num_sequences_));
    }
    before = value;
  }
}

std::int64_t DatasetIndex::sequence_length(std::int64_t sequence) const {
  return load<std::int32_t>(
      bytes_, kHeaderSize + static_cast<std::size_t>(sequence) * sizeof(std::int32_t));
}

std::int64_t DatasetIndex::boundary(std::int64_t document) const {
  const std::size_t boundaries =
      kHeaderSize + static_cast<std::size_t>(num_sequences_) * kSequenceSize;
  return load<std::int64_t>(
      bytes_, boundaries + static_cast<std::size_t>(document) * sizeof(std::int64_t));
}

std::int64_t DatasetIndex::document_start(std::int64_t document) const {
  const std::int64_t sequence = boundary(document);
  if (sequence == num_sequences_) {
    return num_tokens_;
  }
  const std::size_t offsets =
      kHeaderSize + static_cast<std::size_t>(num_sequences_) * sizeof(std::int32_t);
  const auto offset = load<std::int64_t>(
      bytes_, offsets + static_cast<std::size_t>(sequence) * sizeof(std::int64_t));
  return offset / static_cast<std::int64_t>(token_size(type_));
}

void DatasetIndexWriter::end_document() {
  ++num_documents_;
  const auto boundary = static_cast<std::int64_t>(lengths_.size());
  if (boundary != next_boundary_) {
    jumps_.push_back({.document = num_documents_, .sequence = boundary});
  }
  next_boundary_ = boundary + 1;
}

void DatasetIndexWriter::write(const Sink& sink) const {
  constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
  std::string block(kMagic);
  const auto put = [&](auto value) {
    append(block, value);
    if (block.size() >= kBlockBytes) {
      sink(block);
      block.clear();
    }
  };
  put(kVersion);
  put(static_cast<std::uint8_t>(type_));
  put(static_cast<std::uint64_t>(lengths_.size()));
  put(static_cast<std::uint64_t>(num_documents_ + 1));
  for (const std::int32_t length : lengths_) {
    put(length);
  }
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    put(offset);
    offset += static_cast<std::int64_t>(length) * static_cast<std::int64_t>(token_size(type_));
  }
  std::int64_t boundary = 0;
  auto jump = jumps_.begin();
  for (std::int64_t document = 0; document <= num_documents_; ++document, ++boundary) {
    if (jump != jumps_.end() && jump->document == document) {
      boundary = jump->sequence;
      ++jump;
    }
    put(boundary);
  }
  sink(block);
}

} // namespace baton
