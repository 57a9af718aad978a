// SPDX-License-Identifier: Apache-2.0
#include "baton/data/sentencepiece_tokenizer.h"

#include <cstring>

#include <gtest/gtest.h>

#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

// The wire format of Protocol Buffers, as far as a ModelProto needs it.
std::string number(int field, std::uint64_t value) {
  return {static_cast<char>(field << 3), static_cast<char>(value)};
}
std::string bytes(int field, const std::string& content) {
  return std::string{static_cast<char>(field << 3 | 2), static_cast<char>(content.size())} + content;
}
std::string piece(const std::string& text, float score, int type) {
  std::string bits(sizeof(score), '\0');
  std::memcpy(bits.data(), &score, sizeof(score));
  return bytes(1, bytes(1, text) + static_cast<char>(2 << 3 | 5) + bits + number(3, type));
}

constexpr int kNormal = 1;
constexpr int kUnknown = 2;
constexpr int kControl = 3;
constexpr int kByte = 6;

std::string pieces() {
  std::string all = piece("<unk>", 0, kUnknown) + piece("<s>", 0, kControl) +
                    piece("</s>", 0, kControl) + piece("\u2581", -3, kNormal) +
                    piece("a", -2, kNormal) + piece("\u2581" "a", -1, kNormal) +
                    piece("<0xC3>", 0, kByte) + piece("<0xBC>", 0, kByte);
  return all;
}

std::string model(int type = 1, const std::string& normalizer = "") {
  return pieces() + bytes(2, number(3, static_cast<std::uint64_t>(type))) + bytes(3, normalizer);
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
  EXPECT_EQ(tokenizer.vocab_size(), 8);
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
  EXPECT_EQ(decoder.push(6), "");
  EXPECT_EQ(decoder.push(7), "\u00FC");
  EXPECT_EQ(decoder.push(6), "");
  EXPECT_EQ(decoder.push(0), "\uFFFD \u2047 ");
  EXPECT_EQ(decoder.push(6), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(tokenizer.token_bytes(6), "\xC3");
  EXPECT_EQ(tokenizer.token_bytes(2), "");
  EXPECT_EQ(tokenizer.token_bytes(8), "\uFFFD");
}

TEST(SentencePieceTokenizer, DamagedFilesAreRefused) {
  const std::string path = "no_such_folder/t.model: the SentencePiece model ";
  EXPECT_EQ(refusal(""), path + "must have one piece for what is unknown, not 0");
  EXPECT_EQ(refusal(model().substr(0, 20)), path + "ends within a field");
  EXPECT_EQ(refusal(std::string(12, '\xFF')), path + "has a number without end");
  EXPECT_EQ(
      refusal(model(3)),
      path + "is a model of type 3, which is not supported; known: 1 (unigram), 2 (BPE)");
  EXPECT_EQ(
      refusal(model() + piece("a", 0, kNormal)), path + "has the piece \"a\" twice");
  EXPECT_EQ(refusal(model() + piece("", 0, kNormal)), path + "has a piece that is no text: \"\"");
  EXPECT_EQ(
      refusal(model() + piece("x", 0, kByte)), path + "has a byte piece that names no byte: \"x\"");
  EXPECT_EQ(
      refusal(model(1, bytes(2, "abc"))), path + "a character map of 3 bytes is cut");
  EXPECT_EQ(
      refusal(model() + bytes(5, bytes(2, "abc"))),
      path + "has a denormalizer_spec with a character map, which is not supported");
}

} // namespace
} // namespace baton
