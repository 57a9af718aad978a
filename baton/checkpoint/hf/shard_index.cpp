// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/shard_index.h"

#include <algorithm>

#include "baton/base/error.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint::hf {
namespace {

/// Whether it can be a file's name: of the folder itself, and in a message of one line.
bool is_file_name(const std::string& name) {
  const bool is_plain = std::all_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F && c != '/';
  });
  return is_plain && !name.empty() && name != "." && name != "..";
}

} // namespace

std::map<std::string, std::string> parse_shard_index(std::string_view text) {
  const nlohmann::json index = parse_strict_json(text);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    throw Error("weight_map must be an object");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_file_name(file.get_ref<const std::string&>())) {
      throw Error("weight_map." + in_quotes(tensor) + " must be the name of a file in the folder");
    }
    shards.emplace(tensor, file.get<std::string>());
  }
  return shards;
}

} // namespace baton::checkpoint::hf
