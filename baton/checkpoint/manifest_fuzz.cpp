// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any text is a manifest that prints and reads back, or a clean error. A wrong
// checksum would hide all that is behind it, so the target tries the text with its right checksum
// too.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "baton/base/crc32c.h"
#include "baton/base/error.h"
#include "baton/checkpoint/manifest.h"

namespace {

void parse(const std::string& text) {
  using namespace baton::checkpoint;
  try {
    const std::string printed = serialise_manifest(parse_manifest(text));
    if (serialise_manifest(parse_manifest(printed)) != printed) {
      __builtin_trap();
    }
  } catch (const baton::Error&) {
  }
}

std::string with_checksum(nlohmann::json root) {
  root.erase("manifest_crc32c");
  const std::string text = root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  char digits[9];
  std::snprintf(digits, sizeof(digits), "%08x", baton::crc32c(text.data(), text.size()));
  root["manifest_crc32c"] = digits;
  return root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  parse(text);
  const nlohmann::json root = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.is_object()) {
    parse(with_checksum(root));
  }
  return 0;
}
