// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/config_keys.h"

#include <iterator>
#include <tuple>
#include <utility>

#include "baton/base/error.h"
#include "baton/model/pattern.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

} // namespace

ConfigKey integer_key(
    const std::string& name,
    IntegerMember member,
    std::optional<std::int64_t> fallback,
    Range range) {
  return {
      .name = name,
      .read = [=](const ConfigReader& reader,
                  Config& config) { member(config) = reader.integer(name, range, fallback); },
      .write = [=](Config config) -> Json { return member(config); }};
}

ConfigKey real_key(const std::string& name, RealMember member, double fallback, Range range) {
  return {
      .name = name,
      .read = [=](const ConfigReader& reader,
                  Config& config) { member(config) = reader.real(name, range, fallback); },
      .write = [=](Config config) { return config_number(member(config)); }};
}

ConfigKey flag_key(const std::string& name, FlagMember member, bool fallback) {
  return {
      .name = name,
      .read = [=](const ConfigReader& reader,
                  Config& config) { member(config) = reader.flag(name, fallback); },
      .write = [=](Config config) -> Json { return member(config); }};
}

ConfigKey word_key(
    const std::string& name,
    WordMember member,
    const std::vector<std::pair<std::string, std::string>>& theirs_and_ours,
    const std::string& fallback) {
  return {
      .name = name,
      .read =
          [=](const ConfigReader& reader, Config& config) {
            const std::string word = reader.word(name, fallback);
            std::string known;
            for (const auto& [theirs, ours] : theirs_and_ours) {
              if (word == theirs) {
                member(config) = ours;
                return;
              }
              known += (known.empty() ? "\"" : ", \"") + theirs + "\"";
            }
            reader.fail(name, "must be one of " + known);
          },
      .write = [=](Config config) -> Json {
        for (const auto& [theirs, ours] : theirs_and_ours) {
          if (member(config) == ours) {
            return theirs;
          }
        }
        throw Error(name + " has no word for \"" + member(config) + "\"");
      }};
}

ConfigKey fixed_key(const std::string& name, const Json& value) {
  return {
      .name = name,
      .read =
          [=](const ConfigReader& reader, Config&) {
            const Json* found = reader.find(name);
            if (found != nullptr && *found != value) {
              reader.fail(name, "must be " + value.dump() + ", other values are not supported");
            }
          },
      .write = [=](const Config&) { return value; }};
}

ConfigKey free_key(std::string name, const Json& value) {
  return {
      .name = std::move(name),
      .read = [](const ConfigReader&, Config&) {},
      .write = [=](const Config&) { return value; },
      .is_free = true};
}

ConfigKey derived_key(std::string name, std::function<Json(Config)> write) {
  return {
      .name = std::move(name),
      .read = [](const ConfigReader&, Config&) {},
      .write = std::move(write)};
}

std::vector<ConfigKey> mixer_keys(const MixerNames& names) {
  return {
      integer_key(
          names.heads, [](Config& config) -> std::int64_t& { return config.mamba.num_heads; }, 128),
      integer_key(
          names.groups,
          [](Config& config) -> std::int64_t& { return config.mamba.num_groups; },
          names.groups_fallback),
      integer_key(
          names.state,
          [](Config& config) -> std::int64_t& { return config.mamba.state_size; },
          names.state_fallback,
          Range{1, 4096}),
      integer_key(
          names.taps,
          [](Config& config) -> std::int64_t& { return config.mamba.conv_width; },
          4,
          Range{1, 8}),
      flag_key(
          names.conv_bias, [](Config& config) -> bool& { return config.mamba.conv_bias; }, true),
      flag_key(
          names.bias, [](Config& config) -> bool& { return config.mamba.bias; }, false),
      time_step_limit_key()};
}

ConfigKey time_step_limit_key() {
  const std::string name = "time_step_limit";
  return {
      .name = name,
      .read =
          [=](const ConfigReader& reader, Config& config) {
            const Config defaults;
            std::tie(config.mamba.dt_min, config.mamba.dt_max) =
                reader.limits(name, {defaults.mamba.dt_min, defaults.mamba.dt_max});
          },
      .write = [](const Config& config) -> Json {
        return {config_number(config.mamba.dt_min), config_number(config.mamba.dt_max)};
      }};
}

std::vector<ConfigKey> common_keys() {
  ConfigKey dtype = word_key(
      "dtype",
      [](Config& config) -> std::string& { return config.dtype; },
      // Half precision has no place here; fp32 holds its values exactly.
      {{"float32", "fp32"}, {"bfloat16", "bf16"}, {"float64", "fp64"}, {"float16", "fp32"}},
      "float32");
  dtype.older_names = {"torch_dtype"};
  return {
      std::move(dtype),
      integer_key(
          "vocab_size", [](Config& config) -> std::int64_t& { return config.vocabulary; }, {}),
      integer_key("hidden_size", [](Config& config) -> std::int64_t& { return config.width; }, {}),
      flag_key(
          "tie_word_embeddings", [](Config& config) -> bool& { return config.tied; }, false),
      real_key(
          "initializer_range",
          [](Config& config) -> double& { return config.start_deviation; },
          0.02,
          Range{0.0, 10.0}),
      free_key("use_cache", true),
      free_key("max_position_embeddings", nullptr),
      free_key("num_logits_to_keep", nullptr),
      free_key("attention_dropout", nullptr),
      free_key("bos_token_id", nullptr),
      free_key("eos_token_id", nullptr),
      free_key("pad_token_id", nullptr),
      free_key("architectures", nullptr),
      free_key("auto_map", nullptr),
      free_key("model_type", nullptr),
      free_key("transformers_version", nullptr),
      free_key("_name_or_path", nullptr)};
}

std::vector<ConfigKey> join(std::vector<std::vector<ConfigKey>> parts) {
  std::vector<ConfigKey> all;
  for (std::vector<ConfigKey>& part : parts) {
    std::move(part.begin(), part.end(), std::back_inserter(all));
  }
  return all;
}

std::string
block_symbols(const std::string& pattern, const std::string& first, const std::string& rest) {
  const std::string layers = model::parse_pattern(pattern).layers;
  const std::size_t length = 1 + rest.size();
  std::string symbols;
  for (std::size_t i = 0; i < layers.size(); i += length) {
    if (first.find(layers[i]) == std::string::npos || layers.substr(i + 1, length - 1) != rest) {
      throw Error(
          "model.pattern: layers must be blocks of one of \"" + first + "\"" +
          (rest.empty() ? "" : " and then \"" + rest + "\"") + ", layer " + std::to_string(i) +
          " of " + pattern + " begins none");
    }
    symbols += layers[i];
  }
  return symbols;
}

} // namespace baton::checkpoint::hf
