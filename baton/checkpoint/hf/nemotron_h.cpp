// SPDX-License-Identifier: Apache-2.0
#include "baton/base/error.h"
#include "baton/checkpoint/hf/families.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

/// Words of the layers, new and old, and their symbols.
const std::vector<std::pair<std::string, char>>& layer_words() {
  static const std::vector<std::pair<std::string, char>> words{
      {"linear_attention", 'M'},
      {"full_attention", '*'},
      {"mlp", '-'},
      {"moe", 'E'},
      {"mamba", 'M'},
      {"attention", '*'}};
  return words;
}

void read_layers(const ConfigReader& reader, Config& config) {
  const std::string key = "layers_block_type";
  const Json* found = reader.find(key);
  if (found != nullptr && found->is_string()) {
    config.pattern = found->get<std::string>(); // an older file's hybrid_override_pattern
  } else {
    config.pattern.clear();
    for (const std::string& word : reader.words(key)) {
      const auto& words = layer_words();
      const auto known = std::find_if(
          words.begin(), words.end(), [&](const auto& entry) { return entry.first == word; });
      if (known == words.end()) {
        reader.fail(key, "must hold linear_attention, full_attention, mlp and moe only");
      }
      config.pattern += known->second;
    }
  }
  if (config.pattern.empty() || static_cast<std::int64_t>(config.pattern.size()) > kMostLayers) {
    reader.fail(key, "must have 1 to " + std::to_string(kMostLayers) + " layers");
  }
  if (config.pattern.find_first_not_of("M*-") != std::string::npos) {
    reader.fail(key, "must be of mixers (M), attention (*) and MLPs (-), others cannot be built");
  }
}

Json write_layers(const Config& config) {
  std::vector<std::string> words;
  for (const char symbol : block_symbols(config.pattern, "M*-", "")) {
    for (const auto& [word, known] : layer_words()) {
      if (known == symbol) {
        words.push_back(word);
        break;
      }
    }
  }
  return words;
}

std::vector<ConfigKey> layer_keys() {
  ConfigKey layers{.name = "layers_block_type", .read = read_layers, .write = write_layers};
  layers.older_names = {"hybrid_override_pattern"};
  ConfigKey eps = real_key(
      "layer_norm_epsilon",
      [](Config& config) -> double& { return config.norm_eps; },
      1e-5,
      Range{0.0, 1.0});
  eps.older_names = {"rms_norm_eps", "norm_eps"};
  return {
      std::move(layers),
      std::move(eps),
      flag_key(
          "residual_in_fp32", [](Config& config) -> bool& { return config.residual_fp32; }, false),
      free_key("num_hidden_layers", nullptr),
      free_key("hidden_dropout", 0.0),
      free_key("rescale_prenorm_residual", true),
      free_key("use_mamba_kernels", true)};
}

std::vector<ConfigKey> own_mixer_keys() {
  return {
      integer_key(
          "mamba_head_dim",
          [](Config& config) -> std::int64_t& { return config.mamba.head_dim; },
          64,
          kHeadChannels),
      fixed_key("mamba_hidden_act", "silu"),
      // Only where dt starts, in training from the beginning.
      free_key("time_step_min", 0.001),
      free_key("time_step_max", 0.1),
      free_key("time_step_floor", 1e-4),
      free_key("expand", nullptr),
      free_key("chunk_size", 128),
      free_key("mamba_proj_bias", nullptr),
      free_key("mamba_ssm_cache_dtype", "float32")};
}

std::vector<ConfigKey> attention_and_mlp_keys() {
  ConfigKey head_dim = integer_key(
      "head_dim",
      [](Config& config) -> std::int64_t& { return config.attention.head_dim; },
      128,
      kHeadChannels);
  head_dim.older_names = {"attention_head_dim"};
  return {
      // Nemotron-H has no positions.
      {.name = "rotary",
       .read = [](const ConfigReader&, Config& config) { config.attention.rotary.enabled = false; },
       .write = [](const Config& config) -> Json {
         if (config.attention.rotary.enabled && config.pattern.find('*') != std::string::npos) {
           throw Error("family nemotron_h has no rotary positions");
         }
         return nullptr;
       }},
      std::move(head_dim),
      fixed_key("attention_bias", false),
      fixed_key("sliding_window", nullptr),
      integer_key(
          "intermediate_size",
          [](Config& config) -> std::int64_t& { return config.mlp.hidden; },
          21504),
      word_key(
          "mlp_hidden_act",
          [](Config& config) -> std::string& { return config.mlp.activation; },
          {{"relu2", "squared_relu"}, {"gelu_pytorch_tanh", "gelu"}, {"gelu_new", "gelu"}},
          "relu2"),
      flag_key(
          "mlp_bias", [](Config& config) -> bool& { return config.mlp.bias; }, false)};
}

/// Of mixtures of experts and multi-token prediction, which no layer here reads.
std::vector<ConfigKey> unused_keys() {
  std::vector<ConfigKey> keys;
  for (const char* name :
       {"n_routed_experts",
        "num_local_experts",
        "n_shared_experts",
        "moe_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "moe_latent_size",
        "moe_shared_expert_overlap",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "n_group",
        "topk_group",
        "norm_topk_prob",
        "num_nextn_predict_layers",
        "mtp_layers_block_type",
        "mtp_hybrid_override_pattern"}) {
    keys.push_back(free_key(name, nullptr));
  }
  return keys;
}

} // namespace

Family nemotron_h() {
  return {
      .name = "nemotron_h",
      .architecture = "NemotronHForCausalLM",
      .keys = join(
          {common_keys(),
           layer_keys(),
           mixer_keys(
               {.heads = "mamba_num_heads",
                .groups = "n_groups",
                .groups_fallback = 8,
                .state = "ssm_state_size",
                .taps = "conv_kernel",
                .conv_bias = "use_conv_bias",
                .bias = "use_bias"}),
           own_mixer_keys(),
           attention_head_keys(),
           attention_and_mlp_keys(),
           unused_keys()}),
      .names =
          {{0, "embedding", {"embeddings"}},
           {0, "final_norm", {"norm_f"}},
           {0, "lm_head", {"/lm_head"}},
           {'M', "norm", {"norm"}},
           {'M', "mixer", {"mixer"}},
           {'*', "norm", {"norm"}},
           {'*', "attention", {"mixer"}},
           {'-', "norm", {"norm"}},
           {'-', "mlp", {"mixer"}}},
      .roots = {"backbone", "model"},
      .block_first = "M*-",
      .block_rest = "",
      .owns = owns_type("nemotron_h"),
      .notes = {"transformers 5 raises dt to time_step_min in its forward pass, not in decoding; "
                "here, in "
                "Megatron and in vLLM time_step_limit says what limits dt"}};
}

} // namespace baton::checkpoint::hf
