// SPDX-License-Identifier: Apache-2.0
#include "baton/data/token_decoder.h"

#include <gtest/gtest.h>

#include "baton/data/example_tokenizer.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

using Tokens = std::vector<std::string>;

// The parts in which a decoder gives a text, the last one at the end.
std::vector<std::string> parts(const nlohmann::json& json, const Tokens& tokens) {
  const TokenDecoder decoder(JsonNode(json, "t.json"));
  const auto steps = decoder.start();
  std::vector<std::string> result;
  for (const std::string& token : tokens) {
    push_through(steps, token, result.emplace_back());
  }
  finish_steps(steps, result.emplace_back());
  return result;
}

nlohmann::json sequence(const std::vector<nlohmann::json>& decoders) {
  return {{"type", "Sequence"}, {"decoders", decoders}};
}

const nlohmann::json kSpaces{{"type", "Replace"}, {"pattern", {{"String", "_"}}}, {"content", " "}};
const nlohmann::json kBytes{{"type", "ByteFallback"}};
const nlohmann::json kFuse{{"type", "Fuse"}};

TEST(TokenDecoder, BytesWaitForTheEndOfTheirRun) {
  EXPECT_EQ(
      parts(kBytes, {"a", "<0xC3>", "<0xBC>", "b"}),
      Tokens(
          {"a",
           "",
           "",
           "\u00FC"
           "b",
           ""}));
  // One byte that forms no character spoils its run.
  EXPECT_EQ(parts(kBytes, {"<0x41>", "<0xFF>"}), Tokens({"", "", "\uFFFD\uFFFD"}));
  EXPECT_EQ(parts(kBytes, {"<0x4>", "<0xZZ>"}), Tokens({"<0x4>", "<0xZZ>", ""}));
}

TEST(TokenDecoder, ByteLevelGivesWholeCharacters) {
  const nlohmann::json json{{"type", "ByteLevel"}};
  EXPECT_EQ(
      parts(json, {"\u0120a", "\u00C3", "\u00BC", "\u00C3"}),
      Tokens({" a", "", "\u00FC", "", "\uFFFD"}));
  EXPECT_EQ(parts(json, {"\u4E2D"}), Tokens({"\u4E2D", ""})); // no character of the byte alphabet
}

TEST(TokenDecoder, StripBeforeAndAfterFuse) {
  const nlohmann::json strip{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 1}};
  EXPECT_EQ(parts(sequence({kSpaces, strip}), {"__a_", "_b"}), Tokens({" a", "b", ""}));
  EXPECT_EQ(
      parts(sequence({kSpaces, kBytes, kFuse, strip}), {"__a_", "_b_", "c_"}),
      Tokens({" a", "  b", " c", ""}));
}

TEST(TokenDecoder, MetaspaceDropsTheFirstSpace) {
  nlohmann::json json{{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}};
  EXPECT_EQ(parts(json, {"_a", "_b"}), Tokens({"a", " b", ""}));
  json["prepend_scheme"] = "never";
  EXPECT_EQ(parts(json, {"_a", "_b"}), Tokens({" a", " b", ""}));
}

TEST(TokenDecoder, WithoutOneASpaceJoinsTokens) {
  nlohmann::json file = example_file({"a", "b"});
  file["decoder"] = nullptr;
  const JsonTokenizer tokenizer = tokenizer_of(file);
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{0, 2, 1}), "a b"); // 2 is special
  EXPECT_EQ(tokenizer.token_bytes(0), "a");
  EXPECT_EQ(tokenizer.token_bytes(2), "");
  EXPECT_EQ(tokenizer.token_bytes(99), "\uFFFD");
}

TEST(TokenDecoder, UnknownKindsAndOrdersAreNamed) {
  const auto refusal = [](const nlohmann::json& json) {
    return error_of([&] { TokenDecoder(JsonNode(json, "t.json")); });
  };
  EXPECT_EQ(
      refusal({{"type", "WordPiece"}}),
      "t.json: decoder \"WordPiece\" is not supported; known: ByteFallback, ByteLevel, Fuse, "
      "Metaspace, Replace, Sequence, Strip");
  EXPECT_EQ(
      refusal(sequence({kFuse, kSpaces})),
      "t.json: decoder \"Replace\" is not supported behind one that joins tokens (Fuse, "
      "ByteLevel)");
}

} // namespace
} // namespace baton
