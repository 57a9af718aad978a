// SPDX-License-Identifier: Apache-2.0
// Bytes in memory as a stream, for tests and fuzz targets.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "baton/data/byte_source.h"

namespace baton {

/// Hands out at most `step` bytes at a time. The bytes must outlive it.
class MemorySource final : public ByteSource {
 public:
  MemorySource(std::string_view bytes, std::size_t step) : bytes_(bytes), step_(step) {}

  std::size_t read(char* out, std::size_t size) override {
    const std::size_t count = std::min({size, step_, bytes_.size() - offset_});
    std::copy_n(bytes_.data() + offset_, count, out);
    offset_ += count;
    return count;
  }

  std::int64_t consumed() const override { return static_cast<std::int64_t>(offset_); }

 private:
  std::string_view bytes_;
  std::size_t step_;
  std::size_t offset_ = 0;
};

} // namespace baton
