// SPDX-License-Identifier: Apache-2.0
#include "baton/data/text_normalizer.h"

#include <gtest/gtest.h>

#include "baton/data/charsmap.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

NormalizedText normalized(const nlohmann::json& json, const std::string& text) {
  NormalizedText result{text};
  make_text_normalizer(JsonNode(json, "t.json"))->normalize(result);
  return result;
}

TEST(TextNormalizer, NormalForms) {
  const std::string text = "\uFB01\u00E9e\u0301";
  EXPECT_EQ(normalized({{"type", "NFC"}}, text).text, "\uFB01\u00E9\u00E9");
  EXPECT_EQ(normalized({{"type", "NFD"}}, text).text, "\uFB01e\u0301e\u0301");
  EXPECT_EQ(normalized({{"type", "NFKC"}}, text).text, "fi\u00E9\u00E9");
  EXPECT_EQ(normalized({{"type", "NFKD"}}, text).text, "fie\u0301e\u0301");
  EXPECT_EQ(normalized({{"type", "NFC"}}, "").text, "");
}

TEST(TextNormalizer, NormalFormsAreThoseOfUnicode9) {
  // U+32FF came later and stays; U+1ABF is no mark yet, over which U+0316 moves to the front.
  EXPECT_EQ(normalized({{"type", "NFKC"}}, "\u32FE\u32FF").text, "\u30F2\u32FF");
  EXPECT_EQ(normalized({{"type", "NFD"}}, "a\u0301\u0316").text, "a\u0316\u0301");
  EXPECT_EQ(normalized({{"type", "NFD"}}, "a\u0301\u1ABF").text, "a\u0301\u1ABF");
}

TEST(TextNormalizer, CaseMarksAndEnds) {
  EXPECT_EQ(normalized({{"type", "Lowercase"}}, "A\u0130\u03A3z").text, "ai\u0307\u03C3z");
  EXPECT_EQ(normalized({{"type", "StripAccents"}}, "e\u0301a").text, "ea");
  const nlohmann::json strip{{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  EXPECT_EQ(normalized(strip, " \u3000a b\n").text, "a b");
  EXPECT_EQ(normalized(strip, " \n").text, "");
  EXPECT_FALSE(normalized(strip, " a").keeps_start);
  EXPECT_TRUE(normalized(strip, "a ").keeps_start);
}

TEST(TextNormalizer, PrependAndReplaceInSequence) {
  const nlohmann::json json{
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "_"}},
        {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", "_"}}}}};
  EXPECT_EQ(normalized(json, "a  b").text, "_a_b");
  EXPECT_EQ(normalized(json, "").text, "");
}

// One key, "a", which becomes `text`: units for the root, the node of 'a' and its value.
std::string charsmap_of(const std::string& text, std::uint32_t value = 0) {
  std::vector<std::uint32_t> units(512, 0);
  units[0] = 256U << 10;                         // children at 0 ^ 256
  units[256 ^ 'a'] = 'a' | 1U << 8 | 256U << 10; // a key ends here, its value at 'a'
  units['a'] = 0x80000000U | value;
  const auto size = static_cast<std::uint32_t>(units.size() * sizeof(std::uint32_t));
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes.append(reinterpret_cast<const char*>(units.data()), size);
  return bytes + text + '\0';
}

TEST(TextNormalizer, CharsmapReplacesWhatItKnows) {
  const Charsmap map(charsmap_of("xyz"));
  EXPECT_NO_THROW(map.check_every_search());
  EXPECT_EQ(map.normalize("bab"), "bxyzb");
  // A cluster of less than six bytes becomes what its shortest known beginning does.
  EXPECT_EQ(map.normalize("a\u0301b"), "xyzb");
  EXPECT_EQ(map.normalize("a\u0301\u0301\u0301"), "xyz\u0301\u0301\u0301");
}

TEST(TextNormalizer, DamagedCharsmapsAreRefused) {
  EXPECT_EQ(error_of([] { Charsmap("ab"); }), "a character map of 2 bytes is cut");
  const std::string bytes = charsmap_of("x");
  EXPECT_NE(error_of([&] { Charsmap(bytes.substr(0, 1000)); }).find("does not fit"), bytes.npos);
  EXPECT_NE(error_of([&] { Charsmap(bytes + "\xFF"); }).find("UTF-8"), bytes.npos);
  const Charsmap beyond(charsmap_of("x", 100));
  EXPECT_EQ(beyond.normalize("a"), "a");
  EXPECT_NE(error_of([&] { beyond.check_every_search(); }).find("not there"), bytes.npos);
  EXPECT_EQ(
      error_of([] {
        normalized({{"type", "Precompiled"}, {"precompiled_charsmap", "!"}}, "");
      }),
      "t.json: precompiled_charsmap is not base64");
}

TEST(TextNormalizer, UnknownKindsAreNamed) {
  EXPECT_EQ(
      error_of([] {
        normalized({{"type", "BertNormalizer"}}, "");
      }),
      "t.json: normalizer \"BertNormalizer\" is not supported; known: Lowercase, NFC, NFD, NFKC, "
      "NFKD, Precompiled, Prepend, Replace, Sequence, Strip, StripAccents");
}

} // namespace
} // namespace baton
