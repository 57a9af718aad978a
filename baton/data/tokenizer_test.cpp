// SPDX-License-Identifier: Apache-2.0
#include "baton/data/tokenizer.h"

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// Whether whole characters only: decoding by the bit patterns of RFC 3629.
bool is_utf8(const std::string& text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const int length = first < 0x80       ? 1
                       : first >> 5 == 6  ? 2
                       : first >> 4 == 14 ? 3
                       : first >> 3 == 30 ? 4
                                          : 0;
    if (length == 0 || i + static_cast<std::size_t>(length) > text.size()) {
      return false;
    }
    std::uint32_t code = length == 1 ? first : first & (0x7FU >> length);
    for (int k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if (next >> 6 != 2) {
        return false;
      }
      code = code << 6 | (next & 0x3FU);
    }
    const std::uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      return false;
    }
    i += static_cast<std::size_t>(length);
  }
  return true;
}

TEST(Tokenizer, BytesComeBack) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_EQ(tokenizer->name(), "byte");
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->end_of_document(), 256);
  const std::string text = "A z\n\t gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80";
  const auto ids = tokenizer->encode(text);
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(ids[0], 'A');
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_TRUE(tokenizer->encode("").empty());
  EXPECT_EQ(tokenizer->decode({}), "");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->token_bytes(byte), std::string(1, static_cast<char>(byte)));
  }
}

TEST(Tokenizer, SpecialAndForeignIds) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_EQ(tokenizer->token_bytes(256), "");
  for (const std::int32_t id : {-1, 257, 319, 1 << 30}) {
    EXPECT_EQ(tokenizer->token_bytes(id), kReplacement);
  }
  EXPECT_EQ(padded_vocab_size(257), 320);
  EXPECT_EQ(padded_vocab_size(320), 320);
}

TEST(Tokenizer, UnknownNamesAreRefused) {
  EXPECT_EQ(
      error_of([] { make_tokenizer("bpe"); }),
      "unknown tokenizer \"bpe\"; known: byte, or the path of a tokenizer.json, of a .model file, "
      "or "
      "of a folder with one");
}

TEST(Tokenizer, AFoldersTokenizerIsFound) {
  const ScratchFolder folder;
  EXPECT_FALSE(find_tokenizer(folder.path()));
  EXPECT_FALSE(find_tokenizer(folder / "missing"));
  EXPECT_NE(
      error_of([&] { make_tokenizer(folder.path()); }).find("holds neither"), std::string::npos);
  const std::string below = folder.write("tokenizer/tokenizer.json", "{}");
  EXPECT_EQ(find_tokenizer(folder.path()), below);
  const std::string model = folder.write("spiece.model", "");
  EXPECT_EQ(find_tokenizer(folder.path()), model);
  folder.write("other.model", "");
  EXPECT_EQ(find_tokenizer(folder.path()), below);
  const std::string named = folder.write("tokenizer.model", "");
  EXPECT_EQ(find_tokenizer(folder.path()), named);
  const std::string json = folder.write("tokenizer.json", "{}");
  EXPECT_EQ(find_tokenizer(folder.path()), json);
}

TEST(Tokenizer, StreamNeverEmitsHalfACharacter) {
  const auto tokenizer = make_tokenizer("byte");
  StreamingDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xE2), "");
  EXPECT_EQ(decoder.push(0x82), "");
  EXPECT_EQ(decoder.push(0xAC), "\xE2\x82\xAC");
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.finish(), kReplacement);
  EXPECT_EQ(decoder.finish(), "");
}

TEST(Tokenizer, BrokenBytesBecomeReplacementCharacters) {
  const auto tokenizer = make_tokenizer("byte");
  const auto decoded = [&](const std::string& bytes) {
    return tokenizer->decode(tokenizer->encode(bytes));
  };
  const std::string r = kReplacement;
  EXPECT_EQ(decoded("\x80"), r);
  EXPECT_EQ(decoded("\xFF"), r);
  EXPECT_EQ(decoded("\xC0\xAF"), r + r);
  EXPECT_EQ(decoded("\xE0\x80\x80"), r + r + r);         // overlong
  EXPECT_EQ(decoded("\xED\xA0\x80"), r + r + r);         // surrogate
  EXPECT_EQ(decoded("\xF4\x90\x80\x80"), r + r + r + r); // beyond U+10FFFF
  EXPECT_EQ(decoded("\xF0\x9F\x98q"), r + "q");          // one for the whole broken beginning
  EXPECT_EQ(decoded("\xC3\xC3\xBC"), r + "\xC3\xBC");
}

TEST(Tokenizer, RandomBytesGiveValidTextInAnyPieces) {
  const auto tokenizer = make_tokenizer("byte");
  for (std::uint64_t trial = 0; trial < 2000; ++trial) {
    const RandomKey key = RandomKey(3).with(trial);
    std::vector<std::int32_t> ids;
    for (std::uint64_t i = 0; i < 24; ++i) {
      const auto words = philox(key, i);
      // Mostly lead and continuation bytes, where the cases lie.
      ids.push_back(
          static_cast<std::int32_t>(words[0] % 4 == 0 ? words[1] % 257 : 0x80 + words[1] % 0x80));
    }
    StreamingDecoder decoder(*tokenizer);
    std::string joined;
    for (const std::int32_t id : ids) {
      const std::string piece = decoder.push(id);
      ASSERT_TRUE(is_utf8(piece));
      joined += piece;
    }
    joined += decoder.finish();
    ASSERT_TRUE(is_utf8(joined));
    ASSERT_EQ(joined, tokenizer->decode(ids));
  }
}

} // namespace
} // namespace baton
