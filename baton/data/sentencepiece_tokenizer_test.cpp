// SPDX-License-Identifier: Apache-2.0
#include "baton/data/sentencepiece_tokenizer.h"

#include <array>
#include <cstdio>
#include <cstring>

#include <gtest/gtest.h>

#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

// The wire format of Protocol Buffers, as far as a ModelProto needs it.
std::string varint(std::uint64_t value) {
  std::string result;
  for (; value >= 0x80; value >>= 7) {
    result += static_cast<char>(0x80 | (value & 0x7F));
  }
  return result + static_cast<char>(value);
}
std::string number(std::uint64_t field, std::uint64_t value) {
  return varint(field << 3) + varint(value);
}
std::string bytes(std::uint64_t field, const std::string& content) {
  return varint(field << 3 | 2) + varint(content.size()) + content;
}
std::string piece(const std::string& text, float score, std::uint64_t type) {
  std::string bits(sizeof(score), '\0');
  std::memcpy(bits.data(), &score, sizeof(score));
  return bytes(1, bytes(1, text) + static_cast<char>(2 << 3 | 5) + bits + number(3, type));
}

constexpr std::uint64_t kNormal = 1;
constexpr std::uint64_t kUnknown = 2;
constexpr std::uint64_t kControl = 3;
constexpr std::uint64_t kByte = 6;

std::string pieces() {
  std::string all = piece("<unk>", 0, kUnknown) + piece("<s>", 0, kControl) +
                    piece("</s>", 0, kControl) + piece("\u2581", -3, kNormal) +
                    piece("a", -2, kNormal) +
                    piece(
                        "\u2581"
                        "a",
                        -1,
                        kNormal);
  for (int byte = 0; byte < 256; ++byte) {
    std::array<char, 8> text{};
    std::snprintf(text.data(), text.size(), "<0x%02X>", byte);
    all += piece(text.data(), 0, kByte);
  }
  return all;
}

// Ids 0 to 5, then 256 bytes.
std::string model(std::uint64_t type = 1, const std::string& normalizer = "") {
  return pieces() + bytes(2, number(3, type) + number(35, 1)) + bytes(3, normalizer);
}

SentencePieceTokenizer tokenizer_of(const std::string& file) {
  return {file, "no_such_folder/t.model"};
}

std::string refusal(const std::string& file) {
  return error_of([&] { tokenizer_of(file); });
}

TEST(SentencePieceTokenizer, EncodesThroughTheLibrary) {
  const SentencePieceTokenizer tokenizer = tokenizer_of(model());
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(tokenizer.encode("a a"), Ids({5, 5}));
  EXPECT_EQ(tokenizer.encode("aa"), Ids({5, 4}));
  EXPECT_EQ(tokenizer.encode(""), Ids());
  EXPECT_EQ(tokenizer.vocab_size(), 262);
  EXPECT_EQ(tokenizer.beginning_of_text(), 1);
  EXPECT_EQ(tokenizer.end_of_document(), 2);
  EXPECT_EQ(tokenizer.end_of_text(), 2);
}

TEST(SentencePieceTokenizer, DecodesTokenByToken) {
  const SentencePieceTokenizer tokenizer = tokenizer_of(model());
  StreamingDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(1), "");
  EXPECT_EQ(decoder.push(5), "a"); // the space that stands before a text goes
  EXPECT_EQ(decoder.push(5), " a");
  constexpr std::int32_t kFirstByte = 6;
  EXPECT_EQ(decoder.push(kFirstByte + 0xC3), "");
  EXPECT_EQ(decoder.push(kFirstByte + 0xBC), "\u00FC");
  EXPECT_EQ(decoder.push(kFirstByte + 0xC3), "");
  EXPECT_EQ(decoder.push(0), "\uFFFD \u2047 ");
  EXPECT_EQ(decoder.push(kFirstByte + 0xC3), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(tokenizer.token_bytes(kFirstByte + 0xC3), "\xC3");
  EXPECT_EQ(tokenizer.token_bytes(2), "");
  EXPECT_EQ(tokenizer.token_bytes(262), "\uFFFD");
}

TEST(SentencePieceTokenizer, DamagedFilesAreRefused) {
  const std::string path = "no_such_folder/t.model: the SentencePiece model ";
  EXPECT_EQ(refusal(""), path + "must have one piece for what is unknown, not 0");
  EXPECT_EQ(refusal(model().substr(0, 20)), path + "ends within a field");
  EXPECT_EQ(refusal(std::string(12, '\xFF')), path + "has a number without end");
  EXPECT_EQ(
      refusal(model(3)),
      path + "is a model of type 3, which is not supported; known: 1 (unigram), 2 (BPE)");
  EXPECT_EQ(refusal(model() + piece("a", 0, kNormal)), path + "has the piece \"a\" twice");
  EXPECT_EQ(refusal(model() + piece("", 0, kNormal)), path + "has a piece that is no text: \"\"");
  EXPECT_EQ(
      refusal(model() + piece("x", 0, kByte)), path + "has a byte piece that names no byte: \"x\"");
  EXPECT_EQ(refusal(model(1, bytes(2, "abc"))), path + "a character map of 3 bytes is cut");
  EXPECT_EQ(
      refusal(model() + bytes(5, bytes(2, "abc"))),
      path + "has a denormalizer_spec with a character map, which is not supported");
}

} // namespace
} // namespace baton
