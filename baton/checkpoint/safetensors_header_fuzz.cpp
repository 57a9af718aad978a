// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are the start of a safetensors file whose tensors lie in its data, or a
// clean error. The first 2 bytes are the number of bytes of data behind the header.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "baton/base/error.h"
#include "baton/checkpoint/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::checkpoint;
  if (size < 2) {
    return 0;
  }
  const std::uint64_t data_size = data[0] + (std::uint64_t{data[1]} << 8);
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  try {
    const std::uint64_t length =
        parse_safetensors_prefix(bytes.substr(0, kSafetensorsPrefixSize), bytes.size() + data_size);
    // Truncated files end before the header that their prefix announces.
    const std::string_view json = bytes.substr(kSafetensorsPrefixSize).substr(0, length);
    const SafetensorsHeader header = parse_safetensors_header(json, data_size);
    std::uint64_t end = 0;
    for (const StoredTensor& tensor : header.tensors) {
      if (tensor.begin != end ||
          tensor.end - tensor.begin != stored_size(tensor.dtype, tensor.shape)) {
        __builtin_trap();
      }
      end = tensor.end;
    }
    if (end != data_size) {
      __builtin_trap();
    }
    const std::string again = serialise_safetensors_header(header);
    parse_safetensors_header(std::string_view(again).substr(kSafetensorsPrefixSize), data_size);
  } catch (const baton::Error&) {
  }
  return 0;
}
