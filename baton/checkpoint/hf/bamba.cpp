// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/families.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

constexpr double kTurning = 0.5; // share of a head's channels, whatever an older file says

void read_layers(const ConfigReader& reader, Config& config) {
  const std::int64_t blocks =
      reader.integer("num_hidden_layers", Range{1, double{kMostLayers}}, 32);
  std::string symbols(static_cast<std::size_t>(blocks), 'M');
  for (const std::int64_t index :
       reader.integers("attn_layer_indices", Range{0, static_cast<double>(blocks - 1)})) {
    symbols[static_cast<std::size_t>(index)] = '*';
  }
  config.pattern.clear();
  for (const char symbol : symbols) {
    config.pattern += {symbol, '-'};
  }
}

std::vector<ConfigKey> layer_keys() {
  return {
      {.name = "num_hidden_layers",
       .read = read_layers,
       .write = [](const Config& config) -> Json {
         return block_symbols(config.pattern, "M*", "-").size();
       }},
      derived_key(
          "attn_layer_indices",
          [](const Config& config) -> Json {
            const std::string symbols = block_symbols(config.pattern, "M*", "-");
            std::vector<std::size_t> indices;
            for (std::size_t i = 0; i < symbols.size(); ++i) {
              if (symbols[i] == '*') {
                indices.push_back(i);
              }
            }
            return indices;
          }),
      real_key(
          "rms_norm_eps",
          [](Config& config) -> double& { return config.norm_eps; },
          1e-5,
          Range{0.0, 1.0}),
      integer_key(
          "intermediate_size",
          [](Config& config) -> std::int64_t& { return config.mlp.hidden; },
          14336),
      word_key(
          "hidden_act",
          [](Config& config) -> std::string& { return config.mlp.activation; },
          {{"silu", "swiglu"}},
          "silu"),
      flag_key(
          "mlp_bias", [](Config& config) -> bool& { return config.mlp.bias; }, false),
      free_key("z_loss_coefficient", 0.0),
      // Older files carry these; transformers reads none of them.
      free_key("attn_rotary_emb", nullptr),
      free_key("layer_types", nullptr),
      free_key("num_experts", nullptr)};
}

} // namespace

Family bamba() {
  return {
      .name = "bamba",
      .architecture = "BambaForCausalLM",
      .keys =
          join({common_keys(), layer_keys(), attention_keys(), {rope_key(kTurning)}, mamba_keys()}),
      .names =
          {{0, "embedding", {"embed_tokens"}},
           {0, "final_norm", {"final_layernorm"}},
           {0, "lm_head", {"/lm_head"}},
           {'M', "norm", {"input_layernorm"}},
           {'M', "mixer", {"mamba"}},
           {'*', "norm", {"input_layernorm"}},
           {'*', "attention", {"self_attn"}},
           {'-', "norm", {"pre_ff_layernorm"}},
           {'-', "mlp.up_proj", {"feed_forward.gate_proj", "feed_forward.up_proj"}},
           {'-', "mlp.down_proj", {"feed_forward.down_proj"}}},
      .roots = {"model"},
      .block_first = "M*",
      .block_rest = "-",
      .owns = owns_type("bamba"),
      .notes = {"transformers' torch path takes the gated norm over all channels at once, its "
                "kernels and "
                "Baton over each of mamba_n_groups groups (model.mamba.norm_groups)"}};
}

} // namespace baton::checkpoint::hf
