// SPDX-License-Identifier: Apache-2.0
// mamba_ssm's config.json has no model_type; the mixer's keys stand under "ssm_cfg".
#include "baton/base/error.h"
#include "baton/checkpoint/hf/families.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

constexpr double kNormEps = 1e-5; // mamba_ssm's default, which its config does not hold

void read_mixer(const ConfigReader& all, Config& config) {
  const ConfigReader reader = all.object("ssm_cfg");
  if (reader.word("layer", "Mamba1") != "Mamba2") {
    reader.fail("layer", "must be \"Mamba2\"");
  }
  nn::Mamba2Config& mamba = config.mamba;
  const std::int64_t inner = config.width * reader.integer("expand", Range{1, 64}, 2);
  mamba.head_dim = reader.integer("headdim", kHeadChannels, 64);
  if (inner % mamba.head_dim != 0 || !kSize.holds(static_cast<double>(inner / mamba.head_dim))) {
    reader.fail("headdim", "must divide expand * d_model into 1 to 1048576 heads");
  }
  mamba.num_heads = inner / mamba.head_dim;
  mamba.num_groups = reader.integer("ngroups", kSize, 1);
  mamba.state_size = reader.integer("d_state", Range{1, 4096}, 128);
  mamba.conv_width = reader.integer("d_conv", Range{1, 8}, 4);
  mamba.conv_bias = reader.flag("conv_bias", true);
  mamba.bias = reader.flag("bias", false);
  mamba.norm = reader.flag("rmsnorm", true);
  mamba.gate_first = !reader.flag("norm_before_gate", false);
  const Config defaults;
  std::tie(mamba.dt_min, mamba.dt_max) =
      reader.limits("dt_limit", {defaults.mamba.dt_min, defaults.mamba.dt_max});
  if (reader.flag("D_has_hdim", false)) {
    reader.fail("D_has_hdim", "must be false");
  }
}

Json write_mixer(const Config& config) {
  const nn::Mamba2Config& mamba = config.mamba;
  if (mamba.inner() % config.width != 0) {
    throw Error("ssm_cfg.expand must be a whole number: num_heads * head_dim / width");
  }
  return {
      {"layer", "Mamba2"},
      {"expand", mamba.inner() / config.width},
      {"headdim", mamba.head_dim},
      {"ngroups", mamba.num_groups},
      {"d_state", mamba.state_size},
      {"d_conv", mamba.conv_width},
      {"conv_bias", mamba.conv_bias},
      {"bias", mamba.bias},
      {"rmsnorm", mamba.norm},
      {"norm_before_gate", !mamba.gate_first},
      {"dt_limit", {config_number(mamba.dt_min), config_number(mamba.dt_max)}}};
}

/// The rows of the embedding: mamba_ssm rounds the vocabulary up.
void read_vocabulary(const ConfigReader& reader, Config& config) {
  const std::int64_t multiple = reader.integer("pad_vocab_size_multiple", Range{1, 1 << 20}, 8);
  const std::int64_t size = reader.integer("vocab_size", kSize);
  config.vocabulary = (size + multiple - 1) / multiple * multiple;
}

} // namespace

Family state_spaces() {
  return {
      .name = "state_spaces",
      .architecture = "",
      .keys =
          {integer_key("d_model", [](Config& config) -> std::int64_t& { return config.width; }, {}),
           {.name = "n_layer",
            .read =
                [](const ConfigReader& reader, Config& config) {
                  const std::int64_t layers =
                      reader.integer("n_layer", Range{1, double{kMostLayers}});
                  config.pattern.assign(static_cast<std::size_t>(layers), 'M');
                  config.norm_eps = kNormEps;
                },
            .write = [](const Config& config) -> Json {
              return block_symbols(config.pattern, "M", "").size();
            }},
           {.name = "vocab_size",
            .read = read_vocabulary,
            .write = [](const Config& config) -> Json { return config.vocabulary; }},
           derived_key("pad_vocab_size_multiple", [](const Config&) -> Json { return 1; }),
           {.name = "ssm_cfg", .read = read_mixer, .write = write_mixer},
           flag_key(
               "tie_embeddings", [](Config& config) -> bool& { return config.tied; }, true),
           flag_key(
               "residual_in_fp32",
               [](Config& config) -> bool& { return config.residual_fp32; },
               true),
           fixed_key("rms_norm", true),
           fixed_key("d_intermediate", 0),
           fixed_key("attn_layer_idx", Json::array()),
           free_key("attn_cfg", Json::object()),
           free_key("fused_add_norm", true)},
      .names =
          {{0, "embedding", {"embedding"}},
           {0, "final_norm", {"norm_f"}},
           {0, "lm_head", {"/lm_head"}},
           {'M', "norm", {"norm"}},
           {'M', "mixer", {"mixer"}}},
      .roots = {"backbone"},
      .block_first = "M",
      .block_rest = "",
      .owns =
          [](const Json& config) {
            return config.contains("ssm_cfg") && config.contains("d_model");
          },
      .notes = {}};
}

} // namespace baton::checkpoint::hf
