// SPDX-License-Identifier: Apache-2.0
#include "baton/data/pre_tokenizer.h"

#include <gtest/gtest.h>

#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

using Parts = std::vector<std::string>;

std::vector<std::string> cut(const nlohmann::json& json, const std::string& text) {
  const auto pre_tokenizer = make_pre_tokenizer(JsonNode(json, "t.json"));
  TextArena arena;
  std::vector<TextPiece> pieces{{text, true}};
  pre_tokenizer->cut(pieces, arena);
  std::vector<std::string> parts;
  for (const TextPiece& piece : pieces) {
    parts.emplace_back(piece.text);
  }
  return parts;
}

nlohmann::json split(const char* pattern, const char* behavior, bool invert = false) {
  return {
      {"type", "Split"},
      {"pattern", {{"Regex", pattern}}},
      {"behavior", behavior},
      {"invert", invert}};
}

TEST(PreTokenizer, EveryBehaviourOfSplit) {
  const std::string text = "-a--b-";
  EXPECT_EQ(cut(split("-", "Removed"), text), Parts({"a", "b"}));
  EXPECT_EQ(cut(split("-", "Isolated"), text), Parts({"-", "a", "-", "-", "b", "-"}));
  EXPECT_EQ(cut(split("-", "MergedWithPrevious"), text), Parts({"-", "a-", "-", "b-"}));
  EXPECT_EQ(cut(split("-", "MergedWithNext"), text), Parts({"-a", "-", "-b", "-"}));
  EXPECT_EQ(cut(split("-", "Contiguous"), text), Parts({"-", "a", "--", "b", "-"}));
  EXPECT_EQ(cut(split("[ab]", "Removed", true), text), Parts({"a", "b"}));
  EXPECT_EQ(cut(split("x*", "Isolated"), "axb"), Parts({"a", "x", "b"}));
}

TEST(PreTokenizer, StringsAreNoPatterns) {
  const nlohmann::json json{
      {"type", "Split"},
      {"pattern", {{"String", "a.|"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  EXPECT_EQ(cut(json, "abca.|b"), Parts({"abc", "a.|", "b"}));
}

TEST(PreTokenizer, ByteLevelWritesBytesAsCharacters) {
  nlohmann::json json{{"type", "ByteLevel"}, {"add_prefix_space", true}};
  EXPECT_EQ(cut(json, "it's\n5"), Parts({"\u0120it", "'s", "\u010A", "5"}));
  json["use_regex"] = false;
  json["add_prefix_space"] = false;
  EXPECT_EQ(cut(json, "\xC3\xBC "), Parts({"\u00C3\u00BC\u0120"}));
}

TEST(PreTokenizer, DigitsPunctuationAndWhitespace) {
  EXPECT_EQ(
      cut({{"type", "Digits"}, {"individual_digits", true}}, "a12\u0663"),
      Parts({"a", "1", "2", "\u0663"}));
  EXPECT_EQ(
      cut({{"type", "Digits"}, {"individual_digits", false}}, "a12b"), Parts({"a", "12", "b"}));
  EXPECT_EQ(cut({{"type", "Punctuation"}}, "a,+b\u3002"), Parts({"a", ",", "+", "b", "\u3002"}));
  EXPECT_EQ(cut({{"type", "Whitespace"}}, "a_1 +-\n b"), Parts({"a_1", "+-", "b"}));
  EXPECT_EQ(cut({{"type", "WhitespaceSplit"}}, " a_1 +-\u3000b"), Parts({"a_1", "+-", "b"}));
}

TEST(PreTokenizer, MetaspacePutsASpaceBefore) {
  nlohmann::json json{{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}};
  EXPECT_EQ(cut(json, "a b  c"), Parts({"_a", "_b", "_", "_c"}));
  EXPECT_EQ(cut(json, " a"), Parts({"_a"}));
  json["split"] = false;
  EXPECT_EQ(cut(json, "a b"), Parts({"_a_b"}));
  json["prepend_scheme"] = "never";
  EXPECT_EQ(cut(json, "a b"), Parts({"a_b"}));
  const nlohmann::json first{
      {"type", "Sequence"},
      {"pretokenizers",
       {split(",", "Removed"),
        {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}}}}};
  EXPECT_EQ(cut(first, "a,b"), Parts({"_a", "b"}));
  EXPECT_EQ(
      cut({{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}}, "a"),
      Parts({"a"}));
}

TEST(PreTokenizer, CodePointsNewerThanTheEngineAreWhatTheyAre) {
  // Letters of Unicode 15 and 16: Kawi, Garay; a digit of Garay.
  EXPECT_EQ(
      cut(split("\\p{L}+", "Isolated"), "1\U00011F02\U00010D50\U00010D41x"),
      Parts({"1", "\U00011F02\U00010D50", "\U00010D41", "x"}));
  EXPECT_EQ(cut(split("[[:punct:]]", "Isolated"), "a+b"), Parts({"a", "+", "b"}));
}

TEST(PreTokenizer, WhatIsWrongIsNamed) {
  const auto refusal = [](const nlohmann::json& json) {
    return error_of([&] { make_pre_tokenizer(JsonNode(json, "t.json")); });
  };
  EXPECT_EQ(
      refusal({{"type", "UnicodeScripts"}}),
      "t.json: pre_tokenizer \"UnicodeScripts\" is not supported; known: ByteLevel, Digits, "
      "Metaspace, Punctuation, Sequence, Split, Whitespace, WhitespaceSplit");
  EXPECT_EQ(refusal({{"type", "Digits"}}), "t.json: the file has no \"individual_digits\"");
  EXPECT_EQ(
      refusal(split("(", "Removed")),
      "t.json: not a valid pattern: \"(\": end pattern with unmatched parenthesis");
  EXPECT_EQ(
      refusal(split("a", "Sideways")),
      "t.json: behavior must be Removed, Isolated, MergedWithPrevious, MergedWithNext or "
      "Contiguous, not \"Sideways\"");
  EXPECT_EQ(
      refusal({{"type", "Metaspace"}, {"replacement", "ab"}}),
      "t.json: replacement must be one character");
}

TEST(PreTokenizer, ASearchWithoutEndIsStopped) {
  const nlohmann::json json = split("(x+x+)+y", "Isolated");
  EXPECT_EQ(
      error_of([&] { cut(json, std::string(64, 'x')); }),
      "a search by a tokenizer's pattern failed: retry-limit-in-match over");
}

} // namespace
} // namespace baton
