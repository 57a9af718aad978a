// SPDX-License-Identifier: Apache-2.0
#include "baton/base/error.h"
#include "baton/checkpoint/hf/families.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

std::vector<ConfigKey> own_keys() {
  ConfigKey expand = derived_key("expand", [](const Config& config) -> Json {
    if (config.mamba.inner() % config.width != 0) {
      throw Error("expand must be a whole number: num_heads * head_dim / width");
    }
    return config.mamba.inner() / config.width;
  });
  expand.read = [](const ConfigReader& reader, Config& config) {
    if (config.mamba.inner() != config.width * reader.integer("expand", Range{1, 64}, 2)) {
      reader.fail("expand", "times hidden_size must be num_heads * head_dim");
    }
  };
  return {
      {.name = "num_hidden_layers",
       .read =
           [](const ConfigReader& reader, Config& config) {
             const std::int64_t layers =
                 reader.integer("num_hidden_layers", Range{1, double{kMostLayers}}, 64);
             config.pattern.assign(static_cast<std::size_t>(layers), 'M');
           },
       .write = [](const Config& config) -> Json {
         return block_symbols(config.pattern, "M", "").size();
       }},
      integer_key(
          "head_dim",
          [](Config& config) -> std::int64_t& { return config.mamba.head_dim; },
          64,
          kHeadChannels),
      std::move(expand),
      fixed_key("hidden_act", "silu"),
      real_key(
          "layer_norm_epsilon",
          [](Config& config) -> double& { return config.norm_eps; },
          1e-5,
          Range{0.0, 1.0}),
      flag_key(
          "residual_in_fp32", [](Config& config) -> bool& { return config.residual_fp32; }, true),
      free_key("chunk_size", 256),
      free_key("time_step_rank", nullptr),
      free_key("time_step_min", 0.001),
      free_key("time_step_max", 0.1),
      free_key("time_step_floor", 1e-4),
      free_key("rescale_prenorm_residual", false),
      // Older files carry these without a meaning for the model.
      free_key("norm_before_gate", nullptr),
      free_key("rms_norm", nullptr),
      free_key("intermediate_size", nullptr)};
}

} // namespace

Family mamba2() {
  return {
      .name = "mamba2",
      .architecture = "Mamba2ForCausalLM",
      .keys = join(
          {common_keys(),
           mixer_keys(
               {.heads = "num_heads",
                .groups = "n_groups",
                .groups_fallback = 8,
                .state = "state_size",
                .taps = "conv_kernel",
                .conv_bias = "use_conv_bias",
                .bias = "use_bias"}),
           own_keys()}),
      .names =
          {{0, "embedding", {"embeddings"}},
           {0, "final_norm", {"norm_f"}},
           {0, "lm_head", {"/lm_head"}},
           {'M', "norm", {"norm"}},
           {'M', "mixer", {"mixer"}}},
      .roots = {"backbone"},
      .block_first = "M",
      .block_rest = "",
      .owns = owns_type("mamba2"),
      .notes = {
          "transformers' torch path takes the gated norm over all channels at once, its kernels, "
          "mamba_ssm and Baton over each of n_groups groups (model.mamba.norm_groups)"}};
}

} // namespace baton::checkpoint::hf
