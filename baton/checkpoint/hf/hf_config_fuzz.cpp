// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any text is a config.json whose model can be written and read back to the same one,
// and stand in a recipe, or a clean error of one line.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "baton/base/config.h"
#include "baton/base/error.h"
#include "baton/checkpoint/hf/family.h"

namespace {

using namespace baton::checkpoint::hf;
using baton::model::ModelConfig;
using Json = nlohmann::json;

std::string text_of(ModelConfig config) {
  return baton::print_toml(baton::config_fields(config));
}

/// What a file with the config written by a family says.
ModelConfig read_again(const Family& family, const ModelConfig& config, const Json& base) {
  const Json written = parse_config_json(write_model_config(family, config, base).dump());
  if (&family_of(written, "again") != &family) {
    __builtin_trap();
  }
  return read_model_config(family, ConfigReader(written, "again"));
}

void check(const Json& json) {
  const Family& own = family_of(json, "config.json");
  const ModelConfig config = read_model_config(own, ConfigReader(json, "config.json"));
  unknown_keys(own, json);
  for (const Json& base : {Json::object(), json}) {
    try {
      if (text_of(read_again(own, config, base)) != text_of(config)) {
        __builtin_trap();
      }
      ModelConfig of_recipe;
      baton::parse_toml(baton::config_fields(of_recipe), text_of(config), "recipe.toml");
    } catch (const baton::Error&) {
      __builtin_trap(); // what a family read it can hold, and a recipe too
    }
  }
  for (const Family& family : families()) {
    try {
      read_again(family, config, Json::object());
    } catch (const baton::Error&) {
    }
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(parse_config_json({reinterpret_cast<const char*>(data), size}));
  } catch (const baton::Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) {
      __builtin_trap();
    }
  }
  return 0;
}
