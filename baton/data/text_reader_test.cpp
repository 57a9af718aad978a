// SPDX-License-Identifier: Apache-2.0
#include "baton/data/text_reader.h"

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/data/memory_source.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

constexpr std::size_t kLarge = std::size_t{1} << 30;

TextReader reader_of(const std::string& text, std::size_t step, std::size_t largest = kLarge) {
  return {std::make_unique<MemorySource>(text, step), "x", largest};
}

// "LINE:text" of each part.
std::vector<std::string> lines_of(TextReader reader, std::size_t bytes) {
  std::vector<std::string> parts;
  while (const auto part = reader.next_lines(bytes)) {
    parts.push_back(
        std::to_string(part->first_line) + ":" + (part->too_long ? "too long" : part->text));
  }
  return parts;
}

std::vector<std::string> documents_of(TextReader reader, const std::string& split) {
  std::vector<std::string> parts;
  while (const auto part = reader.next_document(parse_document_split(split))) {
    parts.push_back(std::to_string(part->first_line) + ":" + part->text);
  }
  return parts;
}

using Parts = std::vector<std::string>;

TEST(TextReader, TakesWholeLines) {
  const std::string text = "aa\nbbbb\n\nc\ndddd";
  for (const std::size_t step : {1, 3, 100}) {
    EXPECT_EQ(
        lines_of(reader_of(text, step), 1),
        (Parts{"1:aa\n", "2:bbbb\n", "3:\n", "4:c\n", "5:dddd"}));
    EXPECT_EQ(lines_of(reader_of(text, step), 4), (Parts{"1:aa\nbbbb\n", "3:\nc\ndddd"}));
    EXPECT_EQ(lines_of(reader_of(text, step), 100), (Parts{"1:" + text}));
    EXPECT_TRUE(lines_of(reader_of("", step), 4).empty());
  }
}

TEST(TextReader, PassesOverLinesThatAreTooLong) {
  const std::string long_line(1000000, 'x');
  const std::string text = "aa\n" + long_line + "\nb\n" + long_line + "\n" + long_line;
  for (const std::size_t step : {4093, 1 << 20}) {
    for (const std::size_t bytes : {1, 30, 100000}) {
      EXPECT_EQ(
          lines_of(reader_of(text, step, 20), bytes),
          (Parts{"1:aa\n", "2:too long", "3:b\n", "4:too long", "5:too long"}));
    }
  }
}

TEST(TextReader, SplitsDocumentsWhateverTheBlocks) {
  const std::string text = "\n\none\ntwo\n \n\nthree\n---\nfour\n\n";
  for (const std::size_t step : {1, 2, 100}) {
    EXPECT_EQ(documents_of(reader_of(text, step), "file"), (Parts{"1:" + text}));
    EXPECT_EQ(
        documents_of(reader_of(text, step), "blank-line"),
        (Parts{"3:one\ntwo\n", "7:three\n---\nfour\n"}));
    EXPECT_EQ(
        documents_of(reader_of(text, step), "line=---"),
        (Parts{"1:\n\none\ntwo\n \n\nthree\n", "9:four\n\n"}));
  }
}

TEST(TextReader, NamesTheDocumentThatIsTooLong) {
  const std::string text = "a\n\n" + std::string(100, 'b') + "\n";
  for (const char* split : {"blank-line", "line=-", "file"}) {
    const std::string line = std::string(split) == "blank-line" ? "3" : "1";
    EXPECT_EQ(
        error_of([&] { documents_of(reader_of(text, 7, 50), split); }),
        "x:" + line + ": a document of more than 50 bytes: split it (--split-documents)");
  }
}

TEST(TextReader, RandomTextComesBackFromAnyBlocks) {
  for (std::uint64_t trial = 0; trial < 300; ++trial) {
    std::string text;
    for (std::uint64_t i = 0; i < 200; ++i) {
      text += "ab\n\n "[philox(RandomKey(trial), i)[0] % 5];
    }
    const Parts lines = lines_of(reader_of(text, 1000), 10);
    const Parts documents = documents_of(reader_of(text, 1000), "blank-line");
    std::string joined;
    for (const std::string& part : lines) {
      joined += part.substr(part.find(':') + 1);
    }
    ASSERT_EQ(joined, text);
    for (const std::size_t step : {1, 5, 17}) {
      ASSERT_EQ(lines_of(reader_of(text, step), 10), lines);
      ASSERT_EQ(documents_of(reader_of(text, step), "blank-line"), documents);
    }
  }
}

} // namespace
} // namespace baton
