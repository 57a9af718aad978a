// SPDX-License-Identifier: Apache-2.0
#include "baton/base/error.h"
#include "baton/checkpoint/hf/families.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

void read_layers(const ConfigReader& reader, Config& config) {
  config.pattern.clear();
  if (!reader.has("layer_types")) {
    const std::int64_t blocks =
        reader.integer("num_hidden_layers", Range{1, double{kMostLayers}}, 32);
    for (std::int64_t i = 0; i < blocks; ++i) {
      config.pattern += "M-";
    }
    return;
  }
  const std::vector<std::string> words = reader.words("layer_types");
  const auto blocks = static_cast<std::int64_t>(words.size());
  if (blocks < 1 || blocks > kMostLayers ||
      reader.integer("num_hidden_layers", Range{1, double{kMostLayers}}, blocks) != blocks) {
    reader.fail("num_hidden_layers", "must be the number of layer_types");
  }
  for (const std::string& word : words) {
    const bool attends = word == "full_attention" || word == "attention";
    if (!attends && word != "linear_attention" && word != "mamba") {
      reader.fail("layer_types", "must hold linear_attention and full_attention only");
    }
    config.pattern += attends ? "*-" : "M-";
  }
}

std::vector<ConfigKey> layer_keys() {
  ConfigKey layers{
      .name = "layer_types", .read = read_layers, .write = [](const Config& config) -> Json {
        std::vector<std::string> words;
        for (const char symbol : block_symbols(config.pattern, "M*", "-")) {
          words.emplace_back(symbol == '*' ? "full_attention" : "linear_attention");
        }
        return words;
      }};
  layers.older_names = {"layers_block_type"};
  return {
      std::move(layers),
      derived_key(
          "num_hidden_layers",
          [](const Config& config) -> Json {
            return block_symbols(config.pattern, "M*", "-").size();
          }),
      real_key(
          "rms_norm_eps",
          [](Config& config) -> double& { return config.norm_eps; },
          1e-6,
          Range{0.0, 1.0}),
      integer_key(
          "shared_intermediate_size",
          [](Config& config) -> std::int64_t& { return config.mlp.hidden; },
          1024),
      word_key(
          "hidden_act",
          [](Config& config) -> std::string& { return config.mlp.activation; },
          {{"silu", "swiglu"}},
          "silu"),
      // Its MLPs have no biases.
      {.name = "mlp_bias",
       .read = [](const ConfigReader&, Config& config) { config.mlp.bias = false; },
       .write = [](const Config&) -> Json { return nullptr; }},
      {.name = "num_local_experts",
       .read =
           [](const ConfigReader& reader, Config&) {
             if (reader.integer("num_local_experts", Range{0, 1 << 20}, 8) != 0) {
               reader.fail("num_local_experts", "must be 0, experts cannot be built");
             }
           },
       .write = [](const Config&) -> Json { return 0; }},
      free_key("intermediate_size", nullptr),
      free_key("num_experts_per_tok", nullptr),
      free_key("output_router_logits", nullptr),
      free_key("router_aux_loss_coef", nullptr)};
}

std::vector<ConfigKey> multiplier_keys() {
  return {
      real_key(
          "embedding_multiplier",
          [](Config& config) -> double& { return config.embedding_multiplier; },
          1.0,
          Range{-1e6, 1e6}),
      real_key(
          "residual_multiplier",
          [](Config& config) -> double& { return config.residual_multiplier; },
          1.0,
          Range{-1e6, 1e6}),
      real_key(
          "logits_scaling",
          [](Config& config) -> double& { return config.logits_divisor; },
          1.0,
          Range{1e-6, 1e6}),
      {.name = "attention_multiplier",
       .read =
           [](const ConfigReader& reader, Config& config) {
             config.attention.scale =
                 reader.real("attention_multiplier", Range{0.0, 1e6, true}, 1.0);
           },
       .write = [](const Config& config) -> Json { return config.attention.score_scale(); }}};
}

/// Behind rope_key(), which describes rotary positions whether they are used or not.
ConfigKey position_key() {
  return {
      .name = "position_embedding_type",
      .read =
          [](const ConfigReader& reader, Config& config) {
            const std::string word = reader.word("position_embedding_type", "none");
            if (word != "rope" && word != "nope" && word != "none") {
              reader.fail("position_embedding_type", "must be \"rope\", \"nope\" or null");
            }
            config.attention.rotary.enabled = word == "rope";
          },
      .write = [](const Config& config) -> Json {
        return config.attention.rotary.enabled ? "rope" : "nope";
      }};
}

} // namespace

Family granite_moe_hybrid() {
  return {
      .name = "granitemoehybrid",
      .architecture = "GraniteMoeHybridForCausalLM",
      .keys = join(
          {common_keys(),
           layer_keys(),
           multiplier_keys(),
           attention_keys(),
           {rope_key(1.0), position_key()},
           mamba_keys()}),
      .names =
          {{0, "embedding", {"embed_tokens"}},
           {0, "final_norm", {"norm"}},
           {0, "lm_head", {"/lm_head"}},
           {'M', "norm", {"input_layernorm"}},
           {'M', "mixer", {"mamba"}},
           {'*', "norm", {"input_layernorm"}},
           {'*', "attention", {"self_attn"}},
           {'-', "norm", {"post_attention_layernorm"}},
           {'-', "mlp.up_proj", {"shared_mlp.input_linear"}},
           {'-', "mlp.down_proj", {"shared_mlp.output_linear"}}},
      .roots = {"model"},
      .block_first = "M*",
      .block_rest = "-",
      .owns = owns_type("granitemoehybrid"),
      .notes = {"transformers' torch path takes the gated norm over all channels at once, its "
                "kernels and "
                "Baton over each of mamba_n_groups groups (model.mamba.norm_groups)"}};
}

} // namespace baton::checkpoint::hf
