// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache_entry.h"

#include <string>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/jit/example_kernels.h"

namespace baton::jit {
namespace {

StoredKernel example_stored() {
  const CompileRequest request = example_request("text");
  return {
      example_key(request),
      request.name,
      request.arch,
      request.entry,
      request.options,
      kExampleCompiler,
      example_kernel(request)};
}

std::string damage_of(const std::string& bytes) {
  try {
    decode_entry(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(CacheEntry, ReadsBackAllButTheLog) {
  const StoredKernel stored = example_stored();
  const StoredKernel read = decode_entry(encode_entry(stored));
  EXPECT_EQ(read.key, stored.key);
  EXPECT_EQ(read.name, "scan");
  EXPECT_EQ(read.arch, "sm_90a");
  EXPECT_EQ(read.entry, "baton::scan<64>");
  EXPECT_EQ(read.options, stored.options);
  EXPECT_EQ(read.compiler_version, kExampleCompiler);
  EXPECT_EQ(read.kernel.cubin, stored.kernel.cubin);
  EXPECT_EQ(read.kernel.entry_symbol, stored.kernel.entry_symbol);
  EXPECT_EQ(read.kernel.log, "");
  EXPECT_EQ(read.kernel.registers, 40);
  EXPECT_EQ(read.kernel.spill_bytes, 8);
  EXPECT_EQ(read.kernel.shared_bytes, 1024);
  EXPECT_EQ(read.kernel.stack_bytes, 16);
  EXPECT_EQ(read.kernel.microseconds, 1500);
}

TEST(CacheEntry, NamesThatAreNoUnicodeAreStored) {
  StoredKernel stored = example_stored();
  stored.name = "scan \xff";
  EXPECT_EQ(decode_entry(encode_entry(stored)).kernel.cubin, stored.kernel.cubin);
}

TEST(CacheEntry, EveryChangedByteAndEveryCutIsFound) {
  StoredKernel stored = example_stored();
  stored.kernel.cubin.resize(100);
  const std::string bytes = encode_entry(stored);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    EXPECT_NE(damage_of(changed), "") << i;
    EXPECT_NE(damage_of(bytes.substr(0, i)), "") << i;
  }
  EXPECT_NE(damage_of(bytes + "x"), "");
  EXPECT_NE(damage_of(bytes + bytes), "");
}

TEST(CacheEntry, SaysWhatIsWrong) {
  const std::string bytes = encode_entry(example_stored());
  EXPECT_EQ(damage_of(""), "not a compiled kernel");
  EXPECT_EQ(damage_of(std::string(bytes.size(), '\0')), "not a compiled kernel");
  EXPECT_EQ(damage_of(bytes.substr(0, bytes.size() - 1)), "checksum does not match");
  std::string other = bytes;
  other[8] = 7;
  EXPECT_EQ(damage_of(other), "format 7, not 1");
}

} // namespace
} // namespace baton::jit
