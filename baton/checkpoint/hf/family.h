// SPDX-License-Identifier: Apache-2.0
// A family of models as Hugging Face folders store them: one table a family, read in both
// directions.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "baton/checkpoint/hf/config_reader.h"
#include "baton/model/config.h"

namespace baton::checkpoint::hf {

/// A key of config.json and what it stands for.
struct ConfigKey {
  std::string name;
  /// Takes the key, or its fallback, into the model's config. Throws `Error` for a value that the
  /// key cannot have, or that no model here can have.
  std::function<void(const ConfigReader&, model::ModelConfig&)> read;
  /// What the key is for a model; null where the key is left out. Throws `Error` for a model
  /// that the family cannot hold.
  std::function<nlohmann::json(model::ModelConfig)> write;
  std::vector<std::string> older_names{}; ///< under which older files have it
  bool is_free = false;                   ///< changes nothing about the model
};

/// Where the tensors lie whose names begin with `ours`. Names go on after it as ours do.
struct NameRule {
  char symbol;                     ///< layer of the pattern; 0 outside of layers
  std::string ours;                ///< "mixer", or a whole module: "mlp.up_proj"
  std::vector<std::string> theirs; ///< "mamba"; several hold a tensor's rows one after the other
};

struct Family {
  std::string name;         ///< config.json's model_type, "nemotron_h"
  std::string architecture; ///< of config.json: "NemotronHForCausalLM"
  std::vector<ConfigKey> keys;
  std::vector<NameRule> names;
  std::vector<std::string> roots; ///< of names; the first is written, the others are read too
  /// Layers of the pattern that stand under one index, as the symbols that may come first and those
  /// that follow: "M*" and "-".
  std::string block_first;
  std::string block_rest;
  /// Whether a config.json is of this family.
  std::function<bool(const nlohmann::json&)> owns;
  std::vector<std::string> notes; ///< where programs read the same files differently
};

/// All families, the one that exports prefer first.
const std::vector<Family>& families();

/// Throws `Error`, naming those that exist, when there is no such family.
const Family& find_family(std::string_view name);

/// The family of a config.json. Throws `Error` that begins with `where` for one of none.
const Family& family_of(const nlohmann::json& config, const std::string& where);

/// The model that a config.json describes. Throws `Error`, naming file and key.
model::ModelConfig read_model_config(const Family& family, const ConfigReader& reader);

/// The config.json of a model. `base` is one that the model came from, whose further keys stay, or
/// an empty object. Throws `Error` with the keys in which the family cannot hold the model.
nlohmann::json write_model_config(
    const Family& family,
    const model::ModelConfig& config,
    const nlohmann::json& base);

/// Keys of a config.json that no table knows.
std::vector<std::string> unknown_keys(const Family& family, const nlohmann::json& config);

} // namespace baton::checkpoint::hf
