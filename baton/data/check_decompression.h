// SPDX-License-Identifier: Apache-2.0
// For fuzz targets: what comes out of compressed bytes does not depend on how much is asked for at
// a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "baton/base/error.h"
#include "baton/data/byte_source.h"
#include "baton/data/memory_source.h"

namespace baton {

/// A decompressor over some bytes.
using MakeSource = std::function<std::unique_ptr<ByteSource>(std::unique_ptr<ByteSource>)>;

struct Decompressed {
  std::string text;
  std::string error;

  bool operator==(const Decompressed&) const = default;
};

// A small file may stand for gigabytes; more than this is not followed.
inline constexpr std::size_t kLargestDecompressed = std::size_t{1} << 20;

/// Decompresses `bytes`, which come `input_step` at a time, by reads of `output_step`.
inline Decompressed decompress(
    const MakeSource& make_source,
    std::string_view bytes,
    std::size_t input_step,
    std::size_t output_step) {
  Decompressed outcome;
  try {
    const auto source = make_source(std::make_unique<MemorySource>(bytes, input_step));
    std::string part(output_step, '\0');
    while (outcome.text.size() < kLargestDecompressed) {
      const std::size_t wanted = std::min(part.size(), kLargestDecompressed - outcome.text.size());
      const std::size_t got = source->read(part.data(), wanted);
      if (got > wanted) {
        __builtin_trap();
      }
      if (got == 0) {
        break;
      }
      outcome.text.append(part, 0, got);
    }
  } catch (const Error& error) {
    outcome.error = error.what();
  }
  return outcome;
}

/// Any bytes are compressed text or a clean error. The first byte is the size of the small reads.
inline void
check_decompression(const std::uint8_t* data, std::size_t size, const MakeSource& make_source) {
  constexpr std::size_t kLargeRead = 4096;
  if (size == 0) {
    return;
  }
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::size_t step = 1 + std::size_t{data[0]} % 61;
  const Decompressed whole = decompress(make_source, bytes, bytes.size() + 1, kLargeRead);
  const Decompressed parts = decompress(make_source, bytes, step, 1 + step * 7);
  // Before damage is found, one may have handed out more than the other.
  const std::size_t common = std::min(whole.text.size(), parts.text.size());
  const bool same_text = whole.text.compare(0, common, parts.text, 0, common) == 0;
  if (!same_text || (whole.error.empty() && parts.error.empty() && !(whole == parts)) ||
      (whole.error.empty() != parts.error.empty() && common < kLargestDecompressed)) {
    __builtin_trap();
  }
}

} // namespace baton
