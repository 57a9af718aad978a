// SPDX-License-Identifier: Apache-2.0
#include "baton/data/indexed_dataset.h"

#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

std::vector<std::int64_t> tokens_of(const IndexedDataset& dataset, std::int64_t document) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(dataset.document_length(document)));
  dataset.read_tokens(document, 0, 1 << 30, tokens);
  return tokens;
}

TEST(IndexedDataset, ReturnsWhatWasWritten) {
  const ScratchFolder folder;
  const Documents documents{{1, 2, 3}, {}, {100}, {7, 7}};
  for (const TokenType type :
       {TokenType::kUint8,
        TokenType::kInt8,
        TokenType::kInt16,
        TokenType::kUint16,
        TokenType::kInt32,
        TokenType::kInt64}) {
    write_dataset(folder / "d", documents, {}, type);
    for (const std::string suffix : {"", ".bin", ".idx"}) {
      const IndexedDataset dataset(folder / ("d" + suffix));
      EXPECT_EQ(dataset.type(), type);
      EXPECT_EQ(dataset.num_documents(), 4);
      EXPECT_EQ(dataset.num_tokens(), 6);
      EXPECT_FALSE(dataset.has_mask());
      for (std::size_t i = 0; i < documents.size(); ++i) {
        EXPECT_EQ(
            tokens_of(dataset, static_cast<std::int64_t>(i)),
            std::vector<std::int64_t>(documents[i].begin(), documents[i].end()));
      }
    }
  }
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"d.bin", "d.idx"}));
}

TEST(IndexedDataset, ReadsPartsAndRefusesOthers) {
  const ScratchFolder folder;
  write_dataset(folder / "d", {{1, 2, 3}, {4}});
  const IndexedDataset dataset(folder / "d");
  std::vector<std::int64_t> two(2);
  dataset.read_tokens(0, 1, 10, two);
  EXPECT_EQ(two, (std::vector<std::int64_t>{2, 3}));
  EXPECT_THROW(dataset.read_tokens(0, 2, 10, two), Error);
  EXPECT_THROW(dataset.read_tokens(0, -1, 10, two), Error);
  EXPECT_THROW(dataset.read_tokens(2, 0, 10, two), Error);
  EXPECT_THROW(dataset.read_tokens(-1, 0, 10, two), Error);
  EXPECT_EQ(
      error_of([&] { dataset.read_tokens(0, 1, 3, two); }),
      folder / "d.bin" + ": token 2 of document 0 is 3, outside the vocabulary of 3");
}

TEST(IndexedDataset, NegativeIdsAreOutsideTheVocabulary) {
  const ScratchFolder folder;
  write_dataset(folder / "d", {{1, -5}}, {}, TokenType::kInt32);
  const IndexedDataset dataset(folder / "d");
  EXPECT_NE(error_of([&] { tokens_of(dataset, 0); }).find("is -5"), std::string::npos);
}

TEST(IndexedDataset, MaskIsWrittenFromItsFirstDocumentOn) {
  const ScratchFolder folder;
  write_dataset(folder / "d", {{1, 2}, {3, 4, 5}, {6}}, {{}, {0, 0, 1}, {}});
  const IndexedDataset dataset(folder / "d");
  ASSERT_TRUE(dataset.has_mask());
  std::vector<float> mask(3);
  dataset.read_mask(1, 0, mask);
  EXPECT_EQ(mask, (std::vector<float>{0, 0, 1}));
  mask.resize(2);
  dataset.read_mask(0, 0, mask);
  EXPECT_EQ(mask, (std::vector<float>{1, 1}));
  mask.resize(1);
  dataset.read_mask(2, 0, mask);
  EXPECT_EQ(mask, (std::vector<float>{1}));

  // An older dataset's mask does not outlive it.
  write_dataset(folder / "d", {{1, 2}});
  EXPECT_FALSE(IndexedDataset(folder / "d").has_mask());
}

TEST(IndexedDataset, RefusesDamagedMasks) {
  const ScratchFolder folder;
  write_dataset(folder / "d", {{1, 2, 3}});
  folder.write("d.mask.bin", "\1\1");
  EXPECT_EQ(
      error_of([&] { IndexedDataset(folder / "d"); }),
      folder / "d.mask.bin" + ": has 2 bytes, must have one for each of the 3 tokens");
  folder.write("d.mask.bin", "\1\7\1");
  const IndexedDataset dataset(folder / "d");
  std::vector<float> mask(3);
  EXPECT_NE(error_of([&] { dataset.read_mask(0, 0, mask); }).find("is 7"), std::string::npos);
}

TEST(IndexedDataset, RefusesMissingTruncatedAndFloatFiles) {
  const ScratchFolder folder;
  EXPECT_NE(
      error_of([&] { IndexedDataset(folder / "none"); }).find("none.idx: cannot open"),
      std::string::npos);
  write_dataset(folder / "d", {{1, 2, 3}});
  std::filesystem::resize_file(folder / "d.bin", 5);
  EXPECT_NE(
      error_of([&] { IndexedDataset(folder / "d"); }).find("ends after 5 bytes"),
      std::string::npos);
  std::filesystem::remove(folder / "d.bin");
  EXPECT_NE(
      error_of([&] { IndexedDataset(folder / "d"); }).find("d.bin: cannot open"),
      std::string::npos);
  DatasetIndexWriter index(TokenType::kFloat32);
  index.add_sequence(1);
  index.end_document();
  std::string bytes;
  index.write([&bytes](std::string_view block) { bytes += block; });
  folder.write("f.idx", bytes);
  folder.write("f.bin", "1234");
  EXPECT_NE(
      error_of([&] { IndexedDataset(folder / "f"); }).find("float32 values"), std::string::npos);
}

TEST(DatasetWriter, LeavesNothingWithoutCommit) {
  const ScratchFolder folder;
  {
    DatasetWriter writer(folder / "d", {});
    writer.add_document(std::vector<std::int32_t>{1, 2}, std::vector<std::uint8_t>{0, 1});
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(DatasetWriter, RefusesIdsThatDoNotFit) {
  const ScratchFolder folder;
  DatasetWriter writer(folder / "d", {});
  EXPECT_NE(
      error_of([&] {
        writer.add_document(std::vector<std::int32_t>{1, 65536}, {});
      }).find("65536, which does not fit uint16"),
      std::string::npos);
  EXPECT_THROW(DatasetWriter(folder / "no/such/folder/d", {}), Error);
}

} // namespace
} // namespace baton
