// SPDX-License-Identifier: Apache-2.0
#include "baton/base/crc32c.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace baton {

namespace testing {
std::uint32_t extend_crc32c_by_tables(std::uint32_t crc, const void* data, std::size_t size);
}

namespace {

// One bit at a time, straight from the definition.
std::uint32_t plain_crc32c(std::string_view text) {
  std::uint32_t crc = 0xffffffff;
  for (const char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
    }
  }
  return ~crc;
}

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((i * 131 + i / 7) & 0xff);
  }
  return text;
}

TEST(Crc32c, PublishedValues) {
  EXPECT_EQ(crc32c("", 0), 0U);
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0').data(), 32), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff').data(), 32), 0x62a8ab43U);
}

TEST(Crc32c, BothWaysFollowTheDefinitionAtEveryLengthAndAlignment) {
  const std::string text = pattern(300);
  for (std::size_t begin = 0; begin < 9; ++begin) {
    for (std::size_t size = 0; begin + size <= text.size(); size += 1 + size / 9) {
      const std::string_view part = std::string_view(text).substr(begin, size);
      const std::uint32_t expected = plain_crc32c(part);
      EXPECT_EQ(crc32c(part.data(), part.size()), expected);
      EXPECT_EQ(testing::extend_crc32c_by_tables(0, part.data(), part.size()), expected);
    }
  }
}

TEST(Crc32c, PartsGiveTheChecksumOfTheWhole) {
  const std::string text = pattern(1000);
  const std::uint32_t whole = crc32c(text.data(), text.size());
  for (std::size_t cut = 0; cut <= text.size(); cut += 37) {
    const std::uint32_t first = crc32c(text.data(), cut);
    EXPECT_EQ(extend_crc32c(first, text.data() + cut, text.size() - cut), whole);
  }
}

} // namespace
} // namespace baton
