// SPDX-License-Identifier: Apache-2.0
#include "baton/data/json_tokenizer.h"

#include <thread>

#include <gtest/gtest.h>

#include "baton/data/example_tokenizer.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

using Tokens = std::vector<std::string>;

nlohmann::json added(const nlohmann::json& file, const char* content, nlohmann::json options = {}) {
  nlohmann::json result = file;
  nlohmann::json token = file["added_tokens"][0];
  token["content"] = content;
  token["id"] = file["model"]["vocab"].size() + file["added_tokens"].size() - 1;
  token["special"] = false;
  if (options.is_object()) {
    token.update(options);
  }
  result["added_tokens"].push_back(token);
  return result;
}

std::string refusal(const nlohmann::json& file) {
  return error_of([&] { tokenizer_of(file); });
}

TEST(JsonTokenizer, MergesInTheOrderTheyWereLearnt) {
  const nlohmann::json file = example_file({"a", "b", "c"}, {"b c", "a b", "a bc"});
  EXPECT_EQ(tokens_of(file, "abc"), Tokens({"abc"}));
  EXPECT_EQ(tokens_of(file, "abab"), Tokens({"ab", "ab"}));
  EXPECT_EQ(tokens_of(file, "bcc"), Tokens({"bc", "c"}));
  EXPECT_EQ(tokens_of(file, ""), Tokens());
}

TEST(JsonTokenizer, LongAndShortWordsMergeAlike) {
  const nlohmann::json file =
      example_file({"a", "b"}, {"a b", "ab ab", "a a", "b abab", "aa b", "abab abab"});
  const JsonTokenizer tokenizer = tokenizer_of(file);
  // Lengths on both sides of where the way of merging changes: what a long word starts with, up to
  // a boundary that no merge crosses, is what a short one becomes.
  std::string word;
  for (int i = 0; i < 200; ++i) {
    word += i % 3 == 0 || i % 7 == 1 ? 'a' : 'b';
    const auto ids = tokenizer.encode(word);
    std::string joined;
    for (const std::int32_t id : ids) {
      joined += tokenizer.token_bytes(id);
    }
    ASSERT_EQ(joined, word);
  }
  const std::string unit = "abaabb"; // ends in "b b", which nothing joins
  const auto once = tokenizer.encode(unit + "b");
  std::string many;
  std::vector<std::int32_t> expected;
  for (int i = 0; i < 30; ++i) {
    many += unit + "b";
    expected.insert(expected.end(), once.begin(), once.end());
  }
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(many)), many);
}

TEST(JsonTokenizer, UnknownCharactersFallBack) {
  nlohmann::json file = example_file({"a", "?", "<0xC3>", "<0xBC>"});
  EXPECT_EQ(tokens_of(file, "a\u00FCa"), Tokens({"a", "a"}));
  file["model"]["unk_token"] = "?";
  EXPECT_EQ(tokens_of(file, "\u00FC\u00FCa"), Tokens({"?", "?", "a"}));
  file["model"]["fuse_unk"] = true;
  EXPECT_EQ(tokens_of(file, "\u00FC\u00FCa"), Tokens({"?", "a"}));
  file["model"]["byte_fallback"] = true;
  EXPECT_EQ(tokens_of(file, "\u00FC\u00E9a"), Tokens({"<0xC3>", "<0xBC>", "?", "a"}));
}

TEST(JsonTokenizer, IgnoredMergesTakeAWholeWord) {
  nlohmann::json file = example_file({"a", "b", "c"}, {"a b", "b c", "ab c"});
  file["model"]["vocab"]["cab"] = 7;
  EXPECT_EQ(tokens_of(file, "cab"), Tokens({"c", "ab"}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokens_of(file, "cab"), Tokens({"cab"}));
}

TEST(JsonTokenizer, UnigramTakesTheLikeliestWay) {
  nlohmann::json file = example_file({});
  file["added_tokens"] = nlohmann::json::array();
  file["model"] = {
      {"type", "Unigram"},
      {"unk_id", 0},
      {"vocab",
       nlohmann::json::parse(
           R"([["?", 0], ["a", -3.0], ["b", -3], ["ab", -5], ["ba", -7], ["</s>", 0]])")}};
  const JsonTokenizer tokenizer = tokenizer_of(file);
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(tokenizer.encode("aba"), Ids({3, 1}));
  EXPECT_EQ(tokenizer.encode("ba"), Ids({2, 1}));
  EXPECT_EQ(tokenizer.encode("axyb"), Ids({1, 0, 2})); // neighbours that are unknown are one
}

TEST(JsonTokenizer, AddedTokensAreFoundInTheText) {
  const nlohmann::json file = example_file({"a", "b", "<", "s", ">", "/", " "});
  EXPECT_EQ(tokenizer_of(file).encode("a</s>b"), std::vector<std::int32_t>({0, 7, 1}));
  // The longest counts; white space goes along; a single word stands alone.
  nlohmann::json more = added(file, "</s>a", {{"lstrip", true}, {"rstrip", true}});
  EXPECT_EQ(tokenizer_of(more).encode("b  </s>a  b"), std::vector<std::int32_t>({1, 8, 1}));
  more = added(file, "ab", {{"single_word", true}});
  EXPECT_EQ(tokenizer_of(more).encode("ab aab"), std::vector<std::int32_t>({8, 6, 0, 0, 1}));
  // A normalized one is found in the normalized text.
  more = added(file, "A", {{"normalized", true}});
  more["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_EQ(tokenizer_of(more).encode("bA"), std::vector<std::int32_t>({1, 8}));
}

TEST(JsonTokenizer, BrokenUtf8IsTheReplacementCharacter) {
  const nlohmann::json file = example_file({"a", "\uFFFD"});
  EXPECT_EQ(
      tokens_of(
          file,
          "a\xFF\xE2\x82"
          "a"),
      Tokens({"a", "\uFFFD", "\uFFFD", "a"}));
}

TEST(JsonTokenizer, SpecialTokensComeFromTheFilesBeside) {
  const ScratchFolder folder;
  nlohmann::json file = example_file({"a", "B", "E"});
  const std::string path = folder.write("tokenizer.json", file.dump());
  EXPECT_EQ(make_tokenizer(path)->end_of_document(), 3); // by its common name
  EXPECT_FALSE(make_tokenizer(path)->beginning_of_text());
  folder.write("special_tokens_map.json", R"({"eos_token": {"content": "E"}, "bos_token": "B"})");
  EXPECT_EQ(make_tokenizer(path)->end_of_document(), 2);
  EXPECT_FALSE(make_tokenizer(path)->beginning_of_text());
  folder.write("tokenizer_config.json", R"({"add_bos_token": true, "eos_token": null})");
  EXPECT_EQ(make_tokenizer(path)->beginning_of_text(), 1);
  folder.write("generation_config.json", R"({"eos_token_id": [0, 2]})");
  EXPECT_EQ(make_tokenizer(path)->end_of_text(), 0);
  EXPECT_EQ(make_tokenizer(path)->end_of_document(), 2);
  EXPECT_EQ(make_tokenizer(path)->files().size(), 4U);
  EXPECT_EQ(make_tokenizer(folder.path())->name(), path);
  const std::string config = folder.write("tokenizer_config.json", R"({"eos_token": "X"})");
  EXPECT_EQ(
      error_of([&] { make_tokenizer(path); }),
      config + ": eos_token is not in the vocabulary: \"X\"");
}

TEST(JsonTokenizer, ATemplateNamesTheBeginning) {
  nlohmann::json file = example_file({"a", "B"});
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "B"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair", nlohmann::json::array()},
      {"special_tokens", {{"B", {{"id", "B"}, {"ids", {1}}, {"tokens", {"B"}}}}}}};
  EXPECT_EQ(tokenizer_of(file).beginning_of_text(), 1);
  EXPECT_EQ(tokens_of(file, "a"), Tokens({"a"})); // encode() itself adds nothing
}

TEST(JsonTokenizer, WhatIsWrongIsNamed) {
  const std::string path = "no_such_folder/tokenizer.json: ";
  const nlohmann::json good = example_file({"a", "b"}, {"a b"});
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json file = good;
    file["model"][key] = value;
    return refusal(file);
  };
  EXPECT_EQ(with("dropout", 0.5), path + "model option 'dropout' is not supported: \"0.5\"");
  EXPECT_EQ(
      with("end_of_word_suffix", "</w>"),
      path + "model option 'end_of_word_suffix' is not supported: \"\\\"</w>\\\"\"");
  EXPECT_EQ(
      with("merges", {"a x"}), path + "model.merges name \"x\", which the vocabulary has not");
  EXPECT_EQ(
      with("merges", {"a"}), path + "model.merges must hold pairs of tokens, not \"\\\"a\\\"\"");
  EXPECT_EQ(with("unk_token", "x"), path + "model.unk_token is not in the vocabulary: \"x\"");
  EXPECT_EQ(
      with("vocab", {{"a", -1}}),
      path + "model.vocab gives \"a\" an id that is no integer in [0, 16777215]");
  EXPECT_EQ(with("vocab", {{"a", 1}, {"b", 1}}), path + "model.vocab id 1 is both \"a\" and \"b\"");
  EXPECT_EQ(
      with("type", "WordLevel"),
      path + "model \"WordLevel\" is not supported; known: BPE, Unigram");
  nlohmann::json file = good;
  file["version"] = "2.0";
  EXPECT_EQ(refusal(file), path + "version must be \"1.0\", not \"2.0\"");
  file = good;
  file["added_tokens"][0]["id"] = 9;
  EXPECT_EQ(
      refusal(file),
      path + "added_tokens[0] gives \"</s>\" the id 9, but its place in the vocabulary is 3");
  file = good;
  file["added_tokens"] = nlohmann::json::array();
  file["model"]["vocab"].erase("</s>");
  EXPECT_EQ(
      refusal(file),
      path +
          "no token ends a document; name one as \"eos_token\" in a tokenizer_config.json "
          "beside it");
  EXPECT_EQ(
      error_of([] { JsonTokenizer("{\"a\":", "t.json"); }), "t.json: not valid JSON at byte 6");
  EXPECT_EQ(
      error_of([] { JsonTokenizer(std::string(100, '['), "t.json"); }),
      "t.json: JSON nests deeper than 64 levels");
}

TEST(JsonTokenizer, ManyThreadsUseOne) {
  const nlohmann::json file = example_file({"a", "b", "c"}, {"a b", "ab c"});
  const JsonTokenizer tokenizer = tokenizer_of(file);
  const auto expected = tokenizer.encode("abcababc");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) {
        ASSERT_EQ(tokenizer.encode("abcababc"), expected);
        ASSERT_EQ(tokenizer.decode(expected), "abcababc");
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

} // namespace
} // namespace baton
