// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are gzip members or a clean error, and how much is asked for at a time
// changes nothing. The first byte is the size of the small reads.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "baton/base/error.h"
#include "baton/data/gzip_source.h"
#include "baton/data/memory_source.h"

namespace {

// A small file may stand for gigabytes; more than this is not followed.
constexpr std::size_t kLargestText = std::size_t{1} << 20;
constexpr std::size_t kLargeRead = 4096;

struct Outcome {
  std::string text;
  std::string error;

  bool operator==(const Outcome&) const = default;
};

Outcome decompress(std::string_view bytes, std::size_t input_step, std::size_t output_step) {
  Outcome outcome;
  try {
    baton::GzipSource source(std::make_unique<baton::MemorySource>(bytes, input_step), "fuzz");
    std::string part(output_step, '\0');
    while (outcome.text.size() < kLargestText) {
      const std::size_t wanted = std::min(part.size(), kLargestText - outcome.text.size());
      const std::size_t got = source.read(part.data(), wanted);
      if (got > wanted) {
        __builtin_trap();
      }
      if (got == 0) {
        break;
      }
      outcome.text.append(part, 0, got);
    }
  } catch (const baton::Error& error) {
    outcome.error = error.what();
  }
  return outcome;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::size_t step = 1 + std::size_t{data[0]} % 61;
  const Outcome whole = decompress(bytes, bytes.size() + 1, kLargeRead);
  const Outcome parts = decompress(bytes, step, 1 + step * 7);
  // Before damage is found, one may have handed out more than the other.
  const std::size_t common = std::min(whole.text.size(), parts.text.size());
  const bool same_text = whole.text.compare(0, common, parts.text, 0, common) == 0;
  if (!same_text || (whole.error.empty() && parts.error.empty() && !(whole == parts)) ||
      (whole.error.empty() != parts.error.empty() && common < kLargestText)) {
    __builtin_trap();
  }
  return 0;
}
