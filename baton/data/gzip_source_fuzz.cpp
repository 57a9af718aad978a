// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are gzip members or a clean error.
#include <memory>
#include <utility>

#include "baton/data/check_decompression.h"
#include "baton/data/gzip_source.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  baton::check_decompression(data, size, [](std::unique_ptr<baton::ByteSource> bytes) {
    return std::make_unique<baton::GzipSource>(std::move(bytes), "fuzz");
  });
  return 0;
}
