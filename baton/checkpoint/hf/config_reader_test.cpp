// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/config_reader.h"

#include <algorithm>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The error of reading `text`'s keys; "" when there is none.
std::string error_of(const std::string& text, const std::function<void(const ConfigReader&)>& use) {
  const Json json = parse_config_json(text);
  return message_of([&] { use(ConfigReader(json, "config.json")); });
}

TEST(ConfigReader, InfinityStandsBareOrWrapped) {
  for (const char* text :
       {R"({"limit": [-Infinity, Infinity, 1]})",
        R"({"limit": [{"__float__": "-Infinity"}, {"__float__": "Infinity"}, 1]})"}) {
    const Json json = parse_config_json(text);
    EXPECT_EQ(json["limit"][0], config_number(-kInfinity)) << text;
    EXPECT_EQ(json["limit"][1], config_number(kInfinity)) << text;
    EXPECT_EQ(json["limit"][2], 1) << text;
  }
  EXPECT_EQ(parse_config_json(R"({"a": NaN})")["a"], (Json{{"__float__", "NaN"}}));
  EXPECT_EQ(config_number(0.5), 0.5);
}

TEST(ConfigReader, StringsKeepTheirWords) {
  const Json json = parse_config_json(
      R"({"a": "Infinity", "b \" NaN": "\\", "c": Infinity, "-Infinity": "\"Infinity\\\""})");
  EXPECT_EQ(json["a"], "Infinity");
  EXPECT_EQ(json["b \" NaN"], "\\");
  EXPECT_EQ(json["c"], config_number(kInfinity));
  EXPECT_EQ(json["-Infinity"], "\"Infinity\\\"");
}

TEST(ConfigReader, TextThatIsNoObjectIsRefused) {
  for (const char* text :
       {"",
        "[]",
        "7",
        "Infinity ",
        R"({"a": Infinit})",
        R"({"a": --Infinity})",
        R"({"a": 1e999})",
        "{\"a\": \"\xff\"}",
        R"({"a": "\)"}) {
    EXPECT_THROW(parse_config_json(text), Error) << text;
  }
  EXPECT_NE(
      message_of([] {
        parse_config_json(R"({"a": 1, "b": {"c": 1, "c": 2}})");
      }).find("\"c\" stands twice"),
      std::string::npos);
}

TEST(ConfigReader, AbsentAndNullTakeTheFallback) {
  const Json json = parse_config_json(R"({"null": null, "here": 3})");
  const ConfigReader reader(json, "config.json");
  for (const char* key : {"null", "absent"}) {
    EXPECT_FALSE(reader.has(key));
    EXPECT_EQ(reader.integer(key, Range{0, 9}, 4), 4);
    EXPECT_EQ(reader.real(key, Range{0, 9}, 0.5), 0.5);
    EXPECT_EQ(reader.flag(key, true), true);
    EXPECT_EQ(reader.word(key, "silu"), "silu");
    EXPECT_EQ(reader.limits(key, {1.0, 2.0}), std::pair(1.0, 2.0));
    EXPECT_TRUE(reader.integers(key, Range{0, 9}).empty());
    EXPECT_FALSE(reader.object(key).has("here"));
  }
  EXPECT_EQ(reader.integer("here", Range{0, 9}, 4), 3);
}

TEST(ConfigReader, EveryGetterNamesFileKeyAndValue) {
  struct Case {
    const char* text;
    std::function<void(const ConfigReader&)> use;
    const char* error;
  };
  const Range range{1, 8};
  const std::vector<Case> cases{
      {R"({})", [=](auto& r) { r.integer("k", range); }, "k must be given, got nothing"},
      {R"({"k": null})", [=](auto& r) { r.real("k", range); }, "k must be given, got nothing"},
      {R"({})", [](auto& r) { r.flag("k"); }, "k must be given, got nothing"},
      {R"({})", [](auto& r) { r.word("k"); }, "k must be given, got nothing"},
      {R"({"k": 9})",
       [=](auto& r) { r.integer("k", range); },
       "k must be a whole number in [1, 8], got 9"},
      {R"({"k": 18446744073709551615})",
       [=](auto& r) { r.integer("k", range); },
       "k must be a whole number in [1, 8], got 18446744073709551615"},
      {R"({"k": 2.0})",
       [=](auto& r) { r.integer("k", range); },
       "k must be a whole number in [1, 8], got 2.0"},
      {R"({"k": true})",
       [=](auto& r) { r.integer("k", range, 2); },
       "k must be a whole number in [1, 8], got true"},
      {R"({"k": 0.25})",
       [](auto& r) {
         r.real("k", Range{0.5, 1.0});
       },
       "k must be in [0.5, 1], got 0.25"},
      {R"({"k": 0})",
       [](auto& r) {
         r.real("k", Range{0.0, 10.0, true});
       },
       "k must be in (0, 10], got 0"},
      {R"({"k": Infinity})",
       [=](auto& r) { r.real("k", range); },
       R"(k must be in [1, 8], got {"__float__":"Infinity"})"},
      {R"({"k": NaN})",
       [=](auto& r) { r.real("k", range); },
       R"(k must be a number, got {"__float__":"NaN"})"},
      {R"({"k": "2"})", [=](auto& r) { r.real("k", range); }, R"(k must be a number, got "2")"},
      {R"({"k": 1})", [](auto& r) { r.flag("k", false); }, "k must be true or false, got 1"},
      {R"({"k": ["a"]})", [](auto& r) { r.word("k", "a"); }, R"(k must be a string, got ["a"])"},
      {R"({"k": ["a", 1]})",
       [](auto& r) { r.words("k"); },
       R"(k must be a list of strings, got ["a",1])"},
      {R"({})", [](auto& r) { r.words("k"); }, "k must be a list of strings, got nothing"},
      {R"({"k": [0]})",
       [=](auto& r) { r.integers("k", range); },
       "k must be a list of whole numbers in [1, 8], got [0]"},
      {R"({"k": 3})",
       [=](auto& r) { r.integers("k", range); },
       "k must be a list of whole numbers in [1, 8], got 3"},
      {R"({"k": [1]})", [](auto& r) { r.limits("k", {}); }, "k must be a pair of numbers, got [1]"},
      {R"({"k": [1, "a"]})",
       [](auto& r) { r.limits("k", {}); },
       R"(k must be a number, got [1,"a"])"},
      {R"({"k": [2, 1]})",
       [](auto& r) { r.limits("k", {}); },
       "k must rise from a number in [0, 1000000000], got [2,1]"},
      {R"({"k": [-1, 1]})",
       [](auto& r) { r.limits("k", {}); },
       "k must rise from a number in [0, 1000000000], got [-1,1]"},
      {R"({"k": [Infinity, Infinity]})",
       [](auto& r) { r.limits("k", {}); },
       "k must rise from a number in [0, 1000000000], got "
       R"([{"__float__":"Infinity"},{"__float__":"Infinity"}])"},
      {R"({"k": []})", [](auto& r) { r.object("k"); }, "k must be an object, got []"},
      {R"({"k": {"inner": 9}})",
       [=](auto& r) { r.object("k").integer("inner", range); },
       "k.inner must be a whole number in [1, 8], got 9"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(error_of(one.text, one.use), std::string("config.json: ") + one.error) << one.text;
  }
}

TEST(ConfigReader, ValuesInMessagesAreShortAndOfOneLine) {
  const std::string long_word(1000, 'x');
  const std::string message = error_of(
      R"({"k": ["\n\u001b)" + long_word + R"("]})", [](const ConfigReader& r) { r.word("k"); });
  EXPECT_LT(message.size(), 120U);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  // A character of several bytes is not cut in two.
  for (std::size_t ahead = 50; ahead < 60; ++ahead) {
    const std::string text =
        R"({"k": [")" + std::string(ahead, 'x') + "\u20ac\u20ac\u20ac" + R"("]})";
    const std::string shown = error_of(text, [](const ConfigReader& r) { r.word("k"); });
    EXPECT_TRUE(std::all_of(shown.begin(), shown.end(), [](char c) {
      return static_cast<unsigned char>(c) < 0x80;
    })) << shown;
  }
}

TEST(ConfigReader, RenamedKeysAreNamedAsTheFileHasThem) {
  const Json json = parse_config_json(R"({"older": -1, "new": null})");
  const ConfigReader reader = ConfigReader(json, "config.json").with_alias("new", "older");
  EXPECT_TRUE(reader.has("new"));
  EXPECT_EQ(
      message_of([&] {
        reader.integer("new", Range{0, 1});
      }),
      "config.json: older must be a whole number in [0, 1], got -1");
}

} // namespace
} // namespace baton::checkpoint::hf
