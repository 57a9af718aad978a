// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/family.h"

#include <algorithm>
#include <set>
#include <utility>

#include "baton/base/error.h"
#include "baton/checkpoint/hf/families.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

std::string names_of_all() {
  std::string names;
  for (const Family& family : families()) {
    names += (names.empty() ? "" : ", ") + family.name;
  }
  return names;
}

/// What a config.json cannot say of a model, and what has no bearing on one without such layers, as
/// it is in `from`.
void take_unstored(model::ModelConfig& config, const model::ModelConfig& from) {
  config.dropout = from.dropout;
  config.start_deviation = from.start_deviation;
  config.output_start = from.output_start;
  config.mamba.dt_start_min = from.mamba.dt_start_min;
  config.mamba.dt_start_max = from.mamba.dt_start_max;
  config.mamba.dt_start_floor = from.mamba.dt_start_floor;
  config.mamba.a_start_min = from.mamba.a_start_min;
  config.mamba.a_start_max = from.mamba.a_start_max;
  const auto lacks = [&](char symbol) { return from.pattern.find(symbol) == std::string::npos; };
  if (lacks('M')) {
    config.mamba = from.mamba;
  }
  if (lacks('*')) {
    config.attention = from.attention;
  }
  if (lacks('-')) {
    config.mlp = from.mlp;
  }
  if (!from.attention.rotary.enabled && !config.attention.rotary.enabled) {
    config.attention.rotary = from.attention.rotary;
  }
}

/// The config with its defaults spelled out, so that equal models have equal texts.
model::ModelConfig spelled_out(model::ModelConfig config) {
  config.mamba.norm_groups = config.mamba.norm_group_count();
  config.attention.scale = config.attention.score_scale();
  return config;
}

/// "model.mlp.bias, model.tied": the keys in which two models differ.
std::string differences(model::ModelConfig a, model::ModelConfig b) {
  const std::vector<ConfigField> ours = config_fields(a);
  const std::vector<ConfigField> theirs = config_fields(b);
  std::string keys;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const bool equal = std::visit(
        [&](auto* value) { return *value == *std::get<decltype(value)>(theirs[i].value); },
        ours[i].value);
    if (!equal) {
      keys += (keys.empty() ? "model." : ", model.") + ours[i].key;
    }
  }
  return keys;
}

} // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> all{
      nemotron_h(), mamba2(), bamba(), granite_moe_hybrid(), state_spaces()};
  return all;
}

const Family& find_family(std::string_view name) {
  for (const Family& family : families()) {
    if (family.name == name) {
      return family;
    }
  }
  throw Error("unknown family " + in_quotes(name) + ", there are " + names_of_all());
}

const Family& family_of(const Json& config, const std::string& where) {
  for (const Family& family : families()) {
    if (family.owns(config)) {
      return family;
    }
  }
  const auto type = config.find("model_type");
  throw Error(
      where + ": model_type must be one of " + names_of_all() + ", got " +
      (type != config.end() && type->is_string() ? in_quotes(type->get<std::string>())
                                                 : "nothing"));
}

model::ModelConfig read_model_config(const Family& family, const ConfigReader& reader) {
  model::ModelConfig config;
  config.dtype = "fp32"; // of values on disk, whatever device they go to
  for (const ConfigKey& key : family.keys) {
    const auto older =
        std::find_if(key.older_names.begin(), key.older_names.end(), [&](const std::string& name) {
          return reader.has(name);
        });
    if (reader.has(key.name) || older == key.older_names.end()) {
      key.read(reader, config);
    } else {
      key.read(reader.with_alias(key.name, *older), config);
    }
  }
  return config;
}

Json write_model_config(const Family& family, const model::ModelConfig& config, const Json& base) {
  const std::string where = family.name + " config";
  const auto changes = [&](const Json& written) {
    model::ModelConfig again = read_model_config(family, ConfigReader(written, where));
    take_unstored(again, config);
    return differences(spelled_out(config), spelled_out(again));
  };
  Json written = !base.empty() && family.owns(base) ? base : Json::object();
  if (!written.empty() && changes(written).empty()) {
    return written; // says the same in its own words
  }
  for (const ConfigKey& key : family.keys) {
    for (const std::string& older : key.older_names) {
      written.erase(older);
    }
    const Json value = key.write(config);
    // What has no bearing on the model stays as it was.
    if (!value.is_null() && !(key.is_free && written.contains(key.name))) {
      written[key.name] = value;
    }
  }
  if (!family.architecture.empty()) {
    written["model_type"] = family.name;
    written["architectures"] = {family.architecture};
  }
  const std::string different = changes(written);
  if (!different.empty()) {
    throw Error("family " + family.name + " cannot hold this model's " + different);
  }
  return written;
}

std::vector<std::string> unknown_keys(const Family& family, const Json& config) {
  std::set<std::string> known;
  for (const ConfigKey& key : family.keys) {
    known.insert(key.name);
    known.insert(key.older_names.begin(), key.older_names.end());
  }
  std::vector<std::string> unknown;
  for (const auto& [name, value] : config.items()) {
    if (known.count(name) == 0) {
      unknown.push_back(name);
    }
  }
  return unknown;
}

} // namespace baton::checkpoint::hf
