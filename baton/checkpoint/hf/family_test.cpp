// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/family.h"

#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;
using model::ModelConfig;

std::string text_of(ModelConfig config) {
  return print_toml(config_fields(config));
}

ModelConfig read(const Json& json) {
  return read_model_config(family_of(json, "config.json"), ConfigReader(json, "config.json"));
}

std::string refusal_of(const Json& json) {
  return message_of([&] { read(json); });
}

/// As a file would hold it.
Json through_text(const Json& json) {
  return parse_config_json(json.dump());
}

/// A model that the family can hold, with nothing at its default.
ModelConfig model_of(const std::string& family) {
  ModelConfig config;
  config.width = 32;
  config.vocabulary = 56;
  config.tied = true;
  config.dtype = "bf16";
  config.start_deviation = 0.125;
  config.mamba.num_heads = 8;
  config.mamba.head_dim = 16;
  config.mamba.num_groups = 2;
  config.mamba.state_size = 24;
  config.mamba.conv_width = 3;
  config.mamba.conv_bias = false;
  config.mamba.bias = true;
  config.mamba.dt_min = 0.01;
  config.mamba.dt_max = 0.5;
  if (family == "mamba2" || family == "state_spaces") {
    config.pattern = "MMM";
    config.residual_fp32 = family == "mamba2";
    config.mamba.gate_first = family == "mamba2";
    config.norm_eps = family == "mamba2" ? 1e-4 : 1e-5;
    config.dtype = family == "mamba2" ? "bf16" : "fp32";
    return config;
  }
  config.norm_eps = 1e-4;
  config.pattern = family == "nemotron_h" ? "M-*M" : "M-*-M-";
  config.attention.num_heads = 4;
  config.attention.num_kv_heads = 2;
  config.attention.head_dim = 12;
  config.mlp.hidden = 40;
  if (family == "nemotron_h") {
    config.residual_fp32 = true;
    config.attention.rotary.enabled = false;
    config.mlp.activation = "gelu";
    config.mlp.bias = true;
    return config;
  }
  config.mlp.activation = "swiglu";
  config.attention.bias = true;
  config.attention.rotary = {
      .base = 5000.0,
      .fraction = 0.25,
      .scaling = "yarn",
      .factor = 8.0,
      .original_length = 64,
      .beta_fast = 16.0,
      .beta_slow = 2.0,
      .mscale = 0.5,
      .mscale_all_dim = 0.75,
      .attention_factor = 1.5};
  if (family == "granitemoehybrid") {
    config.embedding_multiplier = 12.0;
    config.residual_multiplier = 0.25;
    config.logits_divisor = 3.0;
    config.attention.scale = 0.125;
  } else {
    config.mlp.bias = true;
  }
  return config;
}

class EveryFamily : public testing::TestWithParam<const char*> {};

TEST_P(EveryFamily, ReadsTheModelThatItWrote) {
  const Family& family = find_family(GetParam());
  const ModelConfig config = model_of(GetParam());
  const Json written = through_text(write_model_config(family, config, Json::object()));
  EXPECT_EQ(&family_of(written, "config.json"), &family);
  ModelConfig again = read(written);
  again.start_deviation = config.start_deviation; // not a key of mamba_ssm's
  EXPECT_EQ(text_of(again), text_of(config));
  EXPECT_TRUE(unknown_keys(family, written).empty());
}

TEST_P(EveryFamily, KeepsTheConfigThatAModelCameWith) {
  const Family& family = find_family(GetParam());
  ModelConfig config = model_of(GetParam());
  Json base = write_model_config(family, config, Json::object());
  base["use_cache"] = false;
  base["of_its_own"] = {1, 2};
  EXPECT_EQ(write_model_config(family, config, base), base);
  // Other models keep what is not about the model.
  config.vocabulary += 8;
  const Json changed = write_model_config(family, config, base);
  EXPECT_EQ(changed["of_its_own"], base["of_its_own"]);
  EXPECT_EQ(changed["use_cache"], false);
  EXPECT_EQ(changed["vocab_size"], config.vocabulary);
}

TEST_P(EveryFamily, NamesWhatItCannotHold) {
  const Family& family = find_family(GetParam());
  const std::string prefix = "family " + family.name + " cannot hold this model's ";
  const auto refusal = [&](const std::function<void(ModelConfig&)>& change) {
    ModelConfig config = model_of(GetParam());
    change(config);
    return message_of([&] { write_model_config(family, config, Json::object()); });
  };
  EXPECT_EQ(
      refusal([](auto& c) { c.mamba.d_per_channel = true; }), prefix + "model.mamba.d_per_channel");
  EXPECT_EQ(refusal([](auto& c) { c.mamba.norm_groups = 4; }), prefix + "model.mamba.norm_groups");
  EXPECT_EQ(
      refusal([](auto& c) {
        c.mamba.norm_groups = 4;
        c.mamba.d_per_channel = true;
      }),
      prefix + "model.mamba.norm_groups, model.mamba.d_per_channel");
  EXPECT_EQ(refusal([](auto& c) { c.mamba.norm_groups = 2; }), ""); // what 0 means here
  EXPECT_EQ(refusal([](auto& c) { c.dropout = 0.5; }), "");         // of training, not of a model
  EXPECT_EQ(refusal([](auto& c) { c.output_start = "1"; }), "");
  if (family.name != "state_spaces") {
    EXPECT_EQ(refusal([](auto& c) { c.mamba.norm = false; }), prefix + "model.mamba.norm");
  }
  if (family.name != "granitemoehybrid") {
    EXPECT_EQ(refusal([](auto& c) { c.logits_divisor = 2.0; }), prefix + "model.logits_divisor");
  }
  EXPECT_NE(refusal([](auto& c) { c.pattern = "M-M"; }).empty(), family.block_first != "M*-");
  EXPECT_NE(refusal([](auto& c) { c.pattern = "-M"; }).empty(), family.block_first != "M*-");
  EXPECT_NE(refusal([](auto& c) { c.pattern = "MG"; }), "");
}

INSTANTIATE_TEST_SUITE_P(
    Family,
    EveryFamily,
    testing::Values("nemotron_h", "mamba2", "bamba", "granitemoehybrid", "state_spaces"));

TEST(Family, UnknownNamesListTheKnown) {
  EXPECT_EQ(
      message_of([] { find_family("llama"); }),
      "unknown family \"llama\", there are nemotron_h, mamba2, bamba, granitemoehybrid, "
      "state_spaces");
  EXPECT_EQ(
      refusal_of({{"model_type", "llama"}}),
      "config.json: model_type must be one of nemotron_h, mamba2, bamba, granitemoehybrid, "
      "state_spaces, got \"llama\"");
  EXPECT_NE(refusal_of({{"model_type", 7}}).find("got nothing"), std::string::npos);
  EXPECT_NE(refusal_of(Json::object()).find("got nothing"), std::string::npos);
}

TEST(Family, UnknownKeysAreListed) {
  const Family& family = find_family("nemotron_h");
  const Json json{
      {"vocab_size", 8},
      {"torch_dtype", "float32"},
      {"hybrid_override_pattern", "M"},
      {"quirk", 1}};
  EXPECT_EQ(unknown_keys(family, json), std::vector<std::string>{"quirk"});
}

TEST(Family, OlderNamesAreReadAndNamed) {
  const Json older{
      {"model_type", "nemotron_h"},
      {"vocab_size", 8},
      {"hidden_size", 16},
      {"hybrid_override_pattern", "M-*"},
      {"torch_dtype", "bfloat16"},
      {"attention_head_dim", 24},
      {"rms_norm_eps", 0.25}};
  const ModelConfig config = read(older);
  EXPECT_EQ(config.pattern, "M-*");
  EXPECT_EQ(config.dtype, "bf16");
  EXPECT_EQ(config.attention.head_dim, 24);
  EXPECT_EQ(config.norm_eps, 0.25);
  Json wrong = older;
  wrong["attention_head_dim"] = 0;
  EXPECT_EQ(
      refusal_of(wrong),
      "config.json: attention_head_dim must be a whole number in [1, 1024], got 0");
  // The newer name counts where both are.
  wrong["head_dim"] = 8;
  EXPECT_EQ(read(wrong).attention.head_dim, 8);
  // Another model is written under the newer names alone.
  ModelConfig changed = config;
  changed.norm_eps = 0.5;
  const Json written = write_model_config(find_family("nemotron_h"), changed, older);
  EXPECT_EQ(written["layer_norm_epsilon"], 0.5);
  EXPECT_FALSE(written.contains("rms_norm_eps"));
  EXPECT_FALSE(written.contains("hybrid_override_pattern"));
}

TEST(Family, OlderRotaryKeysAreRead) {
  Json json{
      {"model_type", "bamba"},
      {"vocab_size", 8},
      {"hidden_size", 32},
      {"num_hidden_layers", 1},
      {"num_attention_heads", 4},
      {"mamba_n_heads", 8},
      {"mamba_d_head", 8},
      {"rope_theta", 500.0},
      {"max_position_embeddings", 96},
      {"partial_rotary_factor", 1}};
  nn::RotaryOptions rotary = read(json).attention.rotary;
  EXPECT_EQ(rotary.base, 500.0);
  EXPECT_EQ(rotary.fraction, 0.5); // whatever an older file says
  EXPECT_EQ(rotary.scaling, "none");
  json["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}};
  rotary = read(json).attention.rotary;
  EXPECT_EQ(rotary.scaling, "yarn");
  EXPECT_EQ(rotary.factor, 4.0);
  EXPECT_EQ(rotary.original_length, 96);
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 4}};
  EXPECT_EQ(
      refusal_of(json),
      "config.json: rope_scaling.type must be default, linear or yarn, got \"dynamic\"");
}

/// Small configs of the files' own words, to be made wrong.
Json nemotron_h_config() {
  return {
      {"model_type", "nemotron_h"},
      {"vocab_size", 8},
      {"hidden_size", 16},
      {"layers_block_type", {"linear_attention", "attention", "mlp"}}};
}

Json granite_config() {
  return {
      {"model_type", "granitemoehybrid"},
      {"vocab_size", 8},
      {"hidden_size", 32},
      {"num_attention_heads", 4},
      {"mamba_n_heads", 8},
      {"num_local_experts", 0},
      {"layer_types", {"mamba", "attention"}}};
}

Json mamba2_config() {
  return {
      {"model_type", "mamba2"},
      {"vocab_size", 8},
      {"hidden_size", 16},
      {"num_heads", 4},
      {"head_dim", 8},
      {"n_groups", 1}};
}

Json state_spaces_config() {
  return {{"d_model", 64}, {"n_layer", 2}, {"vocab_size", 61}, {"ssm_cfg", {{"layer", "Mamba2"}}}};
}

TEST(Family, EveryRefusalNamesTheKey) {
  struct Case {
    Json json;
    Json change;
    const char* error;
  };
  const std::vector<Case> cases{
      {nemotron_h_config(),
       {{"layers_block_type", {"llm"}}},
       "layers_block_type must hold linear_attention, full_attention, mlp and moe only, got "
       "[\"llm\"]"},
      {nemotron_h_config(),
       {{"layers_block_type", {"moe"}}},
       "layers_block_type must be of mixers (M), attention (*) and MLPs (-), others cannot be "
       "built, got [\"moe\"]"},
      {nemotron_h_config(),
       {{"layers_block_type", Json::array()}},
       "layers_block_type must have 1 to 10000 layers, got []"},
      {nemotron_h_config(),
       {{"mlp_hidden_act", "silu"}},
       "mlp_hidden_act must be one of \"relu2\", \"gelu_pytorch_tanh\", \"gelu_new\", got "
       "\"silu\""},
      {nemotron_h_config(),
       {{"sliding_window", 8}},
       "sliding_window must be null, other values are not supported, got 8"},
      {nemotron_h_config(),
       {{"dtype", "int8"}},
       "dtype must be one of \"float32\", \"bfloat16\", \"float64\", \"float16\", got \"int8\""},
      {mamba2_config(),
       {{"expand", 3}},
       "expand times hidden_size must be num_heads * head_dim, got 3"},
      {mamba2_config(),
       {{"num_hidden_layers", 10001}},
       "num_hidden_layers must be a whole number in [1, 10000], got 10001"},
      {mamba2_config(),
       {{"hidden_size", 1 << 21}},
       "hidden_size must be a whole number in [1, 1048576], got 2097152"},
      {granite_config(),
       {{"num_local_experts", 2}},
       "num_local_experts must be 0, experts cannot be built, got 2"},
      {granite_config(),
       {{"num_hidden_layers", 3}},
       "num_hidden_layers must be the number of layer_types, got 3"},
      {granite_config(),
       {{"layer_types", {"moe"}}},
       "layer_types must hold linear_attention and full_attention only, got [\"moe\"]"},
      {granite_config(),
       {{"position_embedding_type", "alibi"}},
       "position_embedding_type must be \"rope\", \"nope\" or null, got \"alibi\""},
      {granite_config(),
       {{"num_attention_heads", 5}},
       "num_attention_heads must divide hidden_size into heads of 1024 channels or fewer, got 5"},
      {granite_config(),
       {{"mamba_d_head", 9}},
       "mamba_n_heads times mamba_d_head, 1024 at most, must be mamba_expand * hidden_size, got 8"},
      {granite_config(),
       {{"rope_parameters", {{"rope_type", "llama3"}}}},
       "rope_parameters.rope_type must be default, linear or yarn, got \"llama3\""},
      {granite_config(),
       {{"attention_multiplier", 0}},
       "attention_multiplier must be in (0, 1000000], got 0"},
      {state_spaces_config(),
       {{"ssm_cfg", {{"layer", "Mamba1"}}}},
       "ssm_cfg.layer must be \"Mamba2\", got \"Mamba1\""},
      {state_spaces_config(),
       {{"ssm_cfg", {{"layer", "Mamba2"}, {"headdim", 48}}}},
       "ssm_cfg.headdim must divide expand * d_model into 1 to 1048576 heads, got 48"},
      {state_spaces_config(),
       {{"ssm_cfg", {{"layer", "Mamba2"}, {"D_has_hdim", true}}}},
       "ssm_cfg.D_has_hdim must be false, got true"},
      {state_spaces_config(),
       {{"attn_layer_idx", {1}}},
       "attn_layer_idx must be [], other values are not supported, got [1]"},
  };
  for (Case one : cases) {
    EXPECT_EQ(refusal_of(one.json), "") << one.json;
    one.json.update(one.change);
    EXPECT_EQ(refusal_of(one.json), std::string("config.json: ") + one.error);
  }
}

TEST(Family, MambaSsmRoundsTheVocabularyUp) {
  Json json = state_spaces_config();
  EXPECT_EQ(read(json).vocabulary, 64);
  json["pad_vocab_size_multiple"] = 16;
  json["vocab_size"] = 64;
  EXPECT_EQ(read(json).vocabulary, 64);
  json["pad_vocab_size_multiple"] = 1;
  json["vocab_size"] = 61;
  EXPECT_EQ(read(json).vocabulary, 61);
}

TEST(Family, BareInfinityOfDtIsTheDefault) {
  Json json = mamba2_config();
  json["time_step_limit"] = {0.0, config_number(std::numeric_limits<double>::infinity())};
  EXPECT_EQ(text_of(read(json)), text_of(read(mamba2_config())));
}

} // namespace
} // namespace baton::checkpoint::hf
