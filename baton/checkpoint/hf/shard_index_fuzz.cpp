// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any text is an index whose files lie in the folder, or a clean error.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "baton/base/error.h"
#include "baton/checkpoint/hf/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& [tensor, file] : baton::checkpoint::hf::parse_shard_index(text)) {
      const auto path = (std::filesystem::path("folder") / file).lexically_normal();
      if (path.parent_path() != "folder" || path.filename() != file) {
        __builtin_trap();
      }
    }
  } catch (const baton::Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) {
      __builtin_trap();
    }
  }
  return 0;
}
