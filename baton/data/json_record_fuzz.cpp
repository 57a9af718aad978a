// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are a record of strings, or a clean error of one line.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <nlohmann/json.hpp>

#include "baton/base/error.h"
#include "baton/data/json_record.h"

namespace {

// What a parser of whole documents makes of the same line.
bool is_object(std::string_view line) {
  return nlohmann::json::parse(line, nullptr, false).is_object();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  try {
    const baton::JsonRecord record = baton::parse_json_record(line, "text");
    const auto whole = nlohmann::json::parse(line);
    if (record.text
            ? whole.at("text") != *record.text
            : whole.at("prompt") != record.prompt || whole.at("completion") != record.completion) {
      __builtin_trap();
    }
  } catch (const baton::Error& error) {
    const std::string_view message = error.what();
    if (message.find('\n') != std::string_view::npos ||
        (message.starts_with("not valid JSON") && is_object(line))) {
      __builtin_trap();
    }
  }
  return 0;
}
