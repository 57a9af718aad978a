// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/shard_index.h"

#include <gtest/gtest.h>

#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint::hf {
namespace {

std::string refusal_of(const std::string& text) {
  return message_of([&] { parse_shard_index(text); });
}

TEST(ShardIndex, MapsTensorsToFiles) {
  const auto shards = parse_shard_index(
      R"({"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors", "b": "..2"}})");
  EXPECT_EQ(shards, (std::map<std::string, std::string>{{"a", "1.safetensors"}, {"b", "..2"}}));
}

TEST(ShardIndex, TextThatIsNoIndexIsRefused) {
  for (const char* text : {"[]", "7", "null", "{}", R"({"weight_map": ["a"]})"}) {
    EXPECT_EQ(refusal_of(text), "weight_map must be an object") << text;
  }
  EXPECT_EQ(refusal_of("{"), "not valid JSON at byte 2");
  EXPECT_EQ(
      refusal_of(R"({"weight_map": {"a": "1", "a": "2"}})"),
      "key \"a\" stands twice in one JSON object");
}

TEST(ShardIndex, FilesAreThoseOfTheFolder) {
  for (const char* file :
       {R"("")",
        R"(".")",
        R"("..")",
        R"("../x")",
        R"("/etc/passwd")",
        R"("a/b")",
        R"("a\u0000b")",
        R"("a\nb")",
        R"("a\u007f")",
        "7",
        "null",
        R"(["x"])"}) {
    EXPECT_EQ(
        refusal_of(std::string(R"({"weight_map": {"a\nb": )") + file + "}}"),
        R"(weight_map."a\nb" must be the name of a file in the folder)")
        << file;
  }
}

} // namespace
} // namespace baton::checkpoint::hf
