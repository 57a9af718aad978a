// SPDX-License-Identifier: Apache-2.0
#include "baton/data/byte_source.h"

#include <functional>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/data/compressed_bytes.h"
#include "baton/data/gzip_source.h"
#include "baton/data/memory_source.h"
#include "baton/data/scratch_folder.h"
#include "baton/data/zstd_source.h"

namespace baton {
namespace {

std::string read_all(ByteSource& source, std::size_t step) {
  std::string text;
  std::string part(step, '\0');
  while (const std::size_t got = source.read(part.data(), part.size())) {
    text.append(part, 0, got);
  }
  EXPECT_EQ(source.read(part.data(), part.size()), 0U) << "the end stays the end";
  return text;
}

// A kind of compression and how it is undone.
struct Format {
  std::string (*compress)(std::string_view);
  std::unique_ptr<ByteSource> (*open)(std::string_view bytes, std::size_t step);
  const char* suffix;
};

const Format kFormats[] = {
    {gzip_member,
     [](std::string_view bytes, std::size_t step) -> std::unique_ptr<ByteSource> {
       return std::make_unique<GzipSource>(std::make_unique<MemorySource>(bytes, step), "x");
     },
     ".gz"},
    {zstd_frame,
     [](std::string_view bytes, std::size_t step) -> std::unique_ptr<ByteSource> {
       return std::make_unique<ZstdSource>(std::make_unique<MemorySource>(bytes, step), "x");
     },
     ".zst"}};

std::string random_text(std::size_t size, std::uint64_t seed) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>('a' + philox(RandomKey(seed), i)[0] % 6);
  }
  return text;
}

TEST(ByteSource, DecompressesPartsOfAnySize) {
  for (const Format& format : kFormats) {
    for (const std::size_t size : {0, 1, 1000, 300000}) {
      const std::string text = random_text(size, size);
      const std::string bytes = format.compress(text);
      for (const std::size_t input : {std::size_t{1}, std::size_t{7}, bytes.size()}) {
        for (const std::size_t output : {std::size_t{61}, std::size_t{1} << 20}) {
          const auto source = format.open(bytes, input);
          EXPECT_EQ(read_all(*source, output), text) << format.suffix << size;
          EXPECT_EQ(source->consumed(), static_cast<std::int64_t>(bytes.size()));
        }
      }
    }
  }
}

TEST(ByteSource, ReadsMembersAndFramesBehindOneAnother) {
  for (const Format& format : kFormats) {
    std::string bytes;
    std::string text;
    for (std::uint64_t i = 0; i < 20; ++i) {
      const std::string part = random_text(i % 3 == 1 ? 0 : i * 997, i);
      text += part;
      bytes += format.compress(part);
    }
    for (const std::size_t step : {std::size_t{1}, std::size_t{13}, bytes.size()}) {
      EXPECT_EQ(read_all(*format.open(bytes, step), 4096), text) << format.suffix;
    }
  }
  const std::string skippable("\x50\x2A\x4D\x18\x03\0\0\0abc", 11);
  const std::string frames = skippable + zstd_frame("one") + skippable + zstd_frame("two");
  EXPECT_TRUE(begins_as_zstd(frames));
  EXPECT_EQ(read_all(*kFormats[1].open(frames, 5), 100), "onetwo");
}

TEST(ByteSource, NoDamageGoesUnseen) {
  const std::string text = random_text(5000, 3);
  for (const Format& format : kFormats) {
    const std::string whole = format.compress("first") + format.compress(text);
    const std::size_t first = format.compress("first").size();
    for (std::size_t size = 1; size < whole.size(); size += 1 + size / 40) {
      if (size != first) { // there a whole file ends
        const std::string cut = whole.substr(0, size);
        EXPECT_NE(
            error_of([&] { read_all(*format.open(cut, 100), 1000); }).find("x: truncated"),
            std::string::npos)
            << format.suffix << size;
      }
    }
    for (std::size_t at = 0; at < whole.size(); at += 1 + at / 40) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
      std::string result;
      try {
        result = read_all(*format.open(damaged, 100), 1000);
      } catch (const Error& error) {
        EXPECT_EQ(std::string(error.what()).rfind("x: ", 0), 0U);
        continue;
      }
      // A header has fields that change nothing: a time, an operating system.
      EXPECT_EQ(result, "first" + text) << format.suffix << at;
    }
    EXPECT_NE(
        error_of([&] { read_all(*format.open(whole + "more text", 100), 1000); }).find("damaged"),
        std::string::npos);
  }
}

TEST(ByteSource, ZeroBytesMayFillAGzipFile) {
  const std::string padded = gzip_member("text") + std::string(70000, '\0');
  EXPECT_EQ(read_all(*kFormats[0].open(padded, 512), 100), "text");
  EXPECT_THROW(read_all(*kFormats[0].open(padded + gzip_member("x"), 512), 100), Error);
}

TEST(ByteSource, RefusesAWindowBeyondItsLimit) {
  const std::string bytes = zstd_frame(random_text(1 << 20, 1));
  ZstdSource source(std::make_unique<MemorySource>(bytes, bytes.size()), "x", /*window_log=*/10);
  EXPECT_NE(error_of([&] { read_all(source, 1000); }).find("too much memory"), std::string::npos);
}

TEST(ByteSource, KnowsAFileByItsContent) {
  const ScratchFolder folder;
  for (const Format& format : kFormats) {
    const std::string named =
        folder.write(std::string("a.txt") + format.suffix, format.compress("a"));
    const std::string unnamed = folder.write("b.txt", format.compress("b"));
    EXPECT_EQ(read_all(*open_text(named), 10), "a");
    EXPECT_EQ(read_all(*open_text(unnamed), 10), "b");
    const std::string wrong = folder.write(std::string("c.txt") + format.suffix, "plain text");
    EXPECT_NE(error_of([&] { open_text(wrong); }).find("does not begin as"), std::string::npos);
    EXPECT_EQ(without_compression_suffix(named), folder / "a.txt");
  }
  EXPECT_EQ(read_all(*open_text(folder.write("d.txt", "plain")), 2), "plain");
  EXPECT_EQ(read_all(*open_text(folder.write("e.txt", "")), 2), "");
  EXPECT_NE(error_of([&] { open_text(folder.path()); }).find("is a folder"), std::string::npos);
  EXPECT_NE(error_of([&] { open_text(folder / "no"); }).find("cannot open"), std::string::npos);
}

} // namespace
} // namespace baton
