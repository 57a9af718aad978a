// SPDX-License-Identifier: Apache-2.0
#include "baton/base/sha256.h"

#include <string>

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(Sha256, PublishedValues) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(
      sha256_hex(std::string(1000000, 'a')),
      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// The digest of the digests, one after another, of texts of 0 to 200 bytes: every place where the
// padding can begin. The value is sha256sum's.
TEST(Sha256, EveryLengthAroundABlock) {
  std::string text;
  std::string digests;
  for (std::size_t i = 0; i <= 200; ++i) {
    digests += sha256_hex(text);
    text += static_cast<char>((i * 131 + i / 7) & 0xff);
  }
  EXPECT_EQ(
      sha256_hex(digests), "f982bf5cc0ca2acb3aa9a3d1b69faa1d68a064fd4bbb20ae442bc3a5768424c3");
}

} // namespace
} // namespace baton
