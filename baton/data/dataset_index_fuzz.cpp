// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are an index whose documents lie in its .bin file, or a clean error. The
// first 8 bytes are the size of the .bin file.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "baton/base/error.h"
#include "baton/data/dataset_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint64_t bin_size = 0;
  if (size < sizeof(bin_size)) {
    return 0;
  }
  std::memcpy(&bin_size, data, sizeof(bin_size));
  const std::span bytes(
      reinterpret_cast<const std::byte*>(data) + sizeof(bin_size), size - sizeof(bin_size));
  try {
    const baton::DatasetIndex index(bytes, bin_size, "fuzz.idx");
    std::int64_t tokens = 0;
    for (std::int64_t document = 0; document < index.num_documents(); ++document) {
      if (index.document_start(document) != tokens || index.document_length(document) < 0) {
        __builtin_trap();
      }
      tokens += index.document_length(document);
    }
    if (tokens != index.num_tokens() ||
        static_cast<std::uint64_t>(tokens) * baton::token_size(index.type()) != bin_size) {
      __builtin_trap();
    }
  } catch (const baton::Error&) {
  }
  return 0;
}
