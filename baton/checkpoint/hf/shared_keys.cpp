// SPDX-License-Identifier: Apache-2.0
// Keys that several families have.
#include "baton/base/error.h"
#include "baton/checkpoint/hf/families.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

constexpr Range kAnyBase{1.0, 1e12};
constexpr Range kFactor{1.0, 1e6};
constexpr Range kTurns{0.0, 1e6, true};

/// The object that holds the rotary parameters: new files have all in one.
struct RopeSource {
  ConfigReader scaling;
  double base = 0.0;
  double fraction = 0.0;
};

RopeSource rope_source(const ConfigReader& reader, double fraction) {
  if (reader.has("rope_parameters")) {
    const ConfigReader all = reader.object("rope_parameters");
    return {
        all,
        all.real("rope_theta", kAnyBase, 10000.0),
        all.real("partial_rotary_factor", Range{0.0, 1.0}, fraction)};
  }
  return {reader.object("rope_scaling"), reader.real("rope_theta", kAnyBase, 10000.0), fraction};
}

void read_rope(const ConfigReader& reader, double fraction, Config& config) {
  nn::RotaryOptions& rotary = config.attention.rotary;
  const RopeSource source = rope_source(reader, fraction);
  const ConfigReader& from = source.scaling;
  rotary = {};
  rotary.base = source.base;
  rotary.fraction = source.fraction;
  const std::string type = from.word("rope_type", from.word("type", "default"));
  if (type == "default") {
    return;
  }
  if (type != "linear" && type != "yarn") {
    from.fail(from.has("rope_type") ? "rope_type" : "type", "must be default, linear or yarn");
  }
  rotary.scaling = type;
  rotary.factor = from.real("factor", kFactor);
  if (type == "yarn") {
    const Range length{1, 1 << 30};
    rotary.original_length = from.integer(
        "original_max_position_embeddings",
        length,
        reader.integer("max_position_embeddings", length, rotary.original_length));
    rotary.beta_fast = from.real("beta_fast", kTurns, rotary.beta_fast);
    rotary.beta_slow = from.real("beta_slow", kTurns, rotary.beta_slow);
    rotary.mscale = from.real("mscale", Range{0.0, 1e3}, 0.0);
    rotary.mscale_all_dim = from.real("mscale_all_dim", Range{0.0, 1e3}, 0.0);
    rotary.attention_factor = from.real("attention_factor", Range{0.0, 1e3}, 0.0);
  }
}

Json write_rope(const nn::RotaryOptions& rotary) {
  if (rotary.interleaved) {
    throw Error("rope_parameters cannot say that neighbouring channels are paired");
  }
  Json written{
      {"rope_type", rotary.scaling == "none" ? "default" : rotary.scaling},
      {"rope_theta", rotary.base},
      {"partial_rotary_factor", rotary.fraction}};
  if (rotary.scaling != "none") {
    written["factor"] = rotary.factor;
  }
  if (rotary.scaling == "yarn") {
    written["original_max_position_embeddings"] = rotary.original_length;
    written["beta_fast"] = rotary.beta_fast;
    written["beta_slow"] = rotary.beta_slow;
    for (const auto& [key, value] :
         {std::pair("mscale", rotary.mscale),
          std::pair("mscale_all_dim", rotary.mscale_all_dim),
          std::pair("attention_factor", rotary.attention_factor)}) {
      if (value != 0.0) {
        written[key] = value;
      }
    }
  }
  return written;
}

} // namespace

ConfigKey rope_key(double fraction) {
  return {
      .name = "rope_parameters",
      .read = [=](const ConfigReader& reader,
                  Config& config) { read_rope(reader, fraction, config); },
      .write = [](const Config& config) -> Json { return write_rope(config.attention.rotary); }};
}

std::vector<ConfigKey> attention_head_keys() {
  return {
      integer_key(
          "num_attention_heads",
          [](Config& config) -> std::int64_t& { return config.attention.num_heads; },
          32),
      {.name = "num_key_value_heads",
       .read =
           [](const ConfigReader& reader, Config& config) {
             config.attention.num_kv_heads =
                 reader.integer("num_key_value_heads", kSize, config.attention.num_heads);
           },
       .write = [](const Config& config) -> Json { return config.attention.num_kv_heads; }}};
}

std::vector<ConfigKey> attention_keys() {
  ConfigKey head_dim{
      .name = "head_dim",
      .read =
          [](const ConfigReader& reader, Config& config) {
            const std::int64_t heads = config.attention.num_heads;
            const bool fits =
                config.width % heads == 0 && config.width / heads <= kMostHeadChannels;
            if (!reader.has("head_dim") && !fits) {
              reader.fail(
                  "num_attention_heads",
                  "must divide hidden_size into heads of " + std::to_string(kMostHeadChannels) +
                      " channels or fewer");
            }
            config.attention.head_dim =
                reader.integer("head_dim", kHeadChannels, config.width / heads);
          },
      .write = [](const Config& config) -> Json {
        const nn::AttentionConfig& attention = config.attention;
        const bool implied = attention.head_dim * attention.num_heads == config.width;
        return implied ? Json() : Json(attention.head_dim);
      }};
  return join(
      {attention_head_keys(),
       {std::move(head_dim),
        flag_key(
            "attention_bias", [](Config& config) -> bool& { return config.attention.bias; }, false),
        free_key("rope_theta", nullptr),
        free_key("rope_scaling", nullptr),
        free_key("partial_rotary_factor", nullptr)}});
}

std::vector<ConfigKey> mamba_keys() {
  ConfigKey head_dim{
      .name = "mamba_d_head",
      .read =
          [](const ConfigReader& reader, Config& config) {
            const nlohmann::json* found = reader.find("mamba_d_head");
            const std::int64_t inner =
                config.width * reader.integer("mamba_expand", Range{1, 64}, 2);
            if (found == nullptr || *found == "auto") {
              config.mamba.head_dim = std::max<std::int64_t>(1, inner / config.mamba.num_heads);
            } else {
              config.mamba.head_dim = reader.integer("mamba_d_head", kHeadChannels);
            }
            if (config.mamba.inner() != inner || config.mamba.head_dim > kMostHeadChannels) {
              reader.fail(
                  "mamba_n_heads",
                  "times mamba_d_head, " + std::to_string(kMostHeadChannels) +
                      " at most, must be mamba_expand * hidden_size");
            }
          },
      .write = [](const Config& config) -> Json { return config.mamba.head_dim; }};
  ConfigKey expand = derived_key("mamba_expand", [](const Config& config) -> Json {
    if (config.mamba.inner() % config.width != 0) {
      throw Error("mamba_expand must be a whole number: num_heads * head_dim / width");
    }
    return config.mamba.inner() / config.width;
  });
  return join(
      {mixer_keys(
           {.heads = "mamba_n_heads",
            .groups = "mamba_n_groups",
            .state = "mamba_d_state",
            .state_fallback = 256,
            .taps = "mamba_d_conv",
            .conv_bias = "mamba_conv_bias",
            .bias = "mamba_proj_bias"}),
       {std::move(head_dim), std::move(expand), free_key("mamba_chunk_size", 256)}});
}

std::function<bool(const Json&)> owns_type(std::string name) {
  return [name = std::move(name)](const Json& config) {
    const auto type = config.find("model_type");
    return type != config.end() && *type == name;
  };
}

} // namespace baton::checkpoint::hf
