// SPDX-License-Identifier: Apache-2.0
#include "baton/data/dataset_index.h"

#include <cstring>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

std::span<const std::byte> view(const std::string& bytes) {
  return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

template <class Value>
std::string packed(std::initializer_list<Value> values) {
  std::string bytes;
  for (const Value value : values) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(Value));
  }
  return bytes;
}

// Written field by field from the description of the format, independently of the library's writer.
std::string index_file(
    std::uint8_t code,
    std::initializer_list<std::int32_t> lengths,
    std::initializer_list<std::int64_t> offsets,
    std::initializer_list<std::int64_t> boundaries) {
  return std::string("MMIDIDX\0\0", 9) + packed<std::uint64_t>({1}) + packed<std::uint8_t>({code}) +
         packed<std::uint64_t>({lengths.size(), boundaries.size()}) + packed(lengths) +
         packed(offsets) + packed(boundaries);
}

// What the library writes for documents of sequences of these lengths.
std::string written(TokenType type, const std::vector<std::vector<std::int32_t>>& documents) {
  DatasetIndexWriter writer(type);
  for (const std::vector<std::int32_t>& document : documents) {
    for (const std::int32_t length : document) {
      writer.add_sequence(length);
    }
    writer.end_document();
  }
  std::string bytes;
  writer.write([&bytes](std::string_view block) { bytes += block; });
  return bytes;
}

std::string refusal(const std::string& bytes, std::uint64_t bin_size) {
  return error_of([&] { DatasetIndex(view(bytes), bin_size, "x.idx"); });
}

TEST(DatasetIndex, WritesTheFormatByteForByte) {
  EXPECT_EQ(
      written(TokenType::kUint16, {{3}, {0}, {2}}),
      index_file(8, {3, 0, 2}, {0, 6, 6}, {0, 1, 2, 3}));
  EXPECT_EQ(written(TokenType::kInt32, {}), index_file(4, {}, {}, {0}));
}

TEST(DatasetIndex, WritesDocumentsOfSeveralSequences) {
  EXPECT_EQ(
      written(TokenType::kInt64, {{1, 2}, {3}, {}, {}, {4}, {5}, {6, 7, 8}, {9}}),
      index_file(
          5,
          {1, 2, 3, 4, 5, 6, 7, 8, 9},
          {0, 8, 24, 48, 80, 120, 168, 224, 288},
          {0, 2, 3, 3, 3, 4, 5, 8, 9}));
}

TEST(DatasetIndex, WritesInBlocksWhatItReads) {
  std::vector<std::vector<std::int32_t>> documents;
  std::int64_t tokens = 0;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const auto words = philox(RandomKey(4), i);
    documents.emplace_back(words[0] % 8 == 0 ? words[1] % 4 : 1, words[2] % 100);
    for (const std::int32_t length : documents.back()) {
      tokens += length;
    }
  }
  const std::string bytes = written(TokenType::kUint16, documents);
  const DatasetIndex index(view(bytes), static_cast<std::uint64_t>(tokens) * 2, "x.idx");
  ASSERT_EQ(index.num_documents(), 200000);
  EXPECT_EQ(index.num_tokens(), tokens);
  for (std::size_t i = 0; i < documents.size(); ++i) {
    std::int64_t length = 0;
    for (const std::int32_t part : documents[i]) {
      length += part;
    }
    ASSERT_EQ(index.document_length(static_cast<std::int64_t>(i)), length);
  }
}

TEST(DatasetIndex, ReadsDocumentsOfSeveralSequences) {
  const std::string bytes = index_file(4, {3, 1, 0, 2}, {0, 12, 16, 16}, {0, 2, 2, 4});
  const DatasetIndex index(view(bytes), 24, "x.idx");
  EXPECT_EQ(index.type(), TokenType::kInt32);
  EXPECT_EQ(index.num_documents(), 3);
  EXPECT_EQ(index.num_sequences(), 4);
  EXPECT_EQ(index.num_tokens(), 6);
  EXPECT_EQ(index.document_start(0), 0);
  EXPECT_EQ(index.document_length(0), 4);
  EXPECT_EQ(index.document_length(1), 0);
  EXPECT_EQ(index.document_length(2), 2);
  EXPECT_EQ(index.document_start(3), 6);
}

TEST(DatasetIndex, KnowsEveryTypeCode) {
  const std::size_t sizes[] = {1, 1, 2, 4, 8, 8, 4, 2};
  const char* names[] = {
      "uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"};
  for (std::uint8_t code = 1; code <= 8; ++code) {
    const auto size = static_cast<std::int64_t>(sizes[code - 1]);
    const std::string bytes = index_file(code, {2, 3}, {0, 2 * size}, {0, 1, 2});
    const DatasetIndex index(view(bytes), static_cast<std::uint64_t>(5 * size), "x.idx");
    EXPECT_EQ(token_type_name(index.type()), names[code - 1]);
    EXPECT_EQ(token_size(index.type()), sizes[code - 1]);
    EXPECT_EQ(index.document_start(1), 2);
  }
  EXPECT_EQ(token_type_for(257), TokenType::kUint16);
  EXPECT_EQ(token_type_for(65499), TokenType::kUint16);
  EXPECT_EQ(token_type_for(65500), TokenType::kInt32);
}

TEST(DatasetIndex, RefusesDamageByName) {
  const std::string good = index_file(8, {3, 2}, {0, 6}, {0, 1, 2});
  EXPECT_EQ(refusal("", 0), "x.idx: not an index of a dataset (it must begin with MMIDIDX)");
  EXPECT_NE(refusal("PK\3\4 something else entirely", 0).find("not an index"), std::string::npos);
  EXPECT_NE(refusal(good.substr(0, 20), 10).find("truncated: 20 bytes"), std::string::npos);
  EXPECT_NE(refusal(good.substr(0, good.size() - 1), 10).find("truncated"), std::string::npos);
  EXPECT_NE(refusal(good + "x", 10).find("damaged"), std::string::npos);
  EXPECT_NE(refusal(good + "xx", 10).find("multimodal"), std::string::npos);
  EXPECT_NE(refusal(good, 9).find("ends after 9 bytes"), std::string::npos);
  EXPECT_NE(refusal(good, 12).find("has 12"), std::string::npos);

  std::string version = good;
  version[9] = 2;
  EXPECT_NE(refusal(version, 10).find("version 2"), std::string::npos);
  for (const std::uint8_t code : {0, 9, 255}) {
    EXPECT_NE(
        refusal(index_file(code, {3, 2}, {0, 6}, {0, 1, 2}), 10).find("type code"),
        std::string::npos);
  }
  EXPECT_NE(
      refusal(index_file(8, {-3, 2}, {0, 6}, {0, 1, 2}), 10).find("length -3"), std::string::npos);
  EXPECT_NE(
      refusal(index_file(8, {3, 2}, {0, 8}, {0, 1, 2}), 10).find("begins at byte 8"),
      std::string::npos);
  EXPECT_NE(refusal(index_file(8, {3, 2}, {0, 6}, {}), 10).find("boundaries"), std::string::npos);
  for (const auto& boundaries :
       {std::initializer_list<std::int64_t>{1, 1, 2},
        std::initializer_list<std::int64_t>{0, 2, 1},
        std::initializer_list<std::int64_t>{0, 3, 2},
        std::initializer_list<std::int64_t>{0, -1, 2},
        std::initializer_list<std::int64_t>{0, 1},
        std::initializer_list<std::int64_t>{0}}) {
    EXPECT_NE(
        refusal(index_file(8, {3, 2}, {0, 6}, boundaries), 10).find("boundar"), std::string::npos);
  }
}

TEST(DatasetIndex, RefusesCountsThatOverflow) {
  const std::string good = index_file(8, {3, 2}, {0, 6}, {0, 1, 2});
  for (const std::size_t place : {18U, 26U}) {
    for (const std::uint64_t count : {std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
      std::string bytes = good;
      std::memcpy(bytes.data() + place, &count, sizeof(count));
      EXPECT_NE(refusal(bytes, 10).find("cannot hold"), std::string::npos);
    }
  }
}

TEST(DatasetIndex, EveryDamagedByteIsRefusedOrReadInBounds) {
  const std::string good = index_file(8, {3, 0, 2}, {0, 6, 6}, {0, 1, 2, 3});
  const RandomKey key(1);
  for (std::uint64_t trial = 0; trial < 20000; ++trial) {
    std::string bytes = good;
    const auto words = philox(key, trial);
    bytes[words[0] % bytes.size()] = static_cast<char>(words[1]);
    bytes.resize(words[2] % 4 == 0 ? words[3] % (bytes.size() + 1) : bytes.size());
    try {
      const DatasetIndex index(view(bytes), 10, "x.idx");
      EXPECT_EQ(index.document_start(index.num_documents()), index.num_tokens());
      for (std::int64_t i = 0; i < index.num_documents(); ++i) {
        EXPECT_GE(index.document_length(i), 0);
        EXPECT_LE(index.document_start(i + 1), 10 / static_cast<int>(token_size(index.type())));
      }
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find("x.idx: "), 0U);
    }
  }
}

} // namespace
} // namespace baton
