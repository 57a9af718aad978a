// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/tensor_names.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint::hf {
namespace {

using Names = std::vector<std::string>;

Names names_of(const char* family, const char* layers, const char* parameter) {
  const Family& found = find_family(family);
  return place_of(found, layers, found.roots.front(), parameter).theirs;
}

TEST(TensorNames, OneLayerAnIndex) {
  const auto nemotron_h = [](const char* parameter) {
    return names_of("nemotron_h", "M-*", parameter);
  };
  EXPECT_EQ(nemotron_h("embedding.weight"), Names{"backbone.embeddings.weight"});
  EXPECT_EQ(nemotron_h("final_norm.weight"), Names{"backbone.norm_f.weight"});
  EXPECT_EQ(nemotron_h("layers.0.norm.weight"), Names{"backbone.layers.0.norm.weight"});
  EXPECT_EQ(nemotron_h("layers.0.mixer.A_log"), Names{"backbone.layers.0.mixer.A_log"});
  EXPECT_EQ(
      nemotron_h("layers.1.mlp.up_proj.weight"), Names{"backbone.layers.1.mixer.up_proj.weight"});
  EXPECT_EQ(
      nemotron_h("layers.2.attention.k_proj.weight"),
      Names{"backbone.layers.2.mixer.k_proj.weight"});
  EXPECT_EQ(
      names_of("mamba2", "MM", "layers.1.mixer.in_proj.weight"),
      Names{"backbone.layers.1.mixer.in_proj.weight"});
  EXPECT_EQ(names_of("state_spaces", "MM", "embedding.weight"), Names{"backbone.embedding.weight"});
}

TEST(TensorNames, TheHeadLiesOutsideTheRoot) {
  for (const Family& family : families()) {
    EXPECT_EQ(names_of(family.name.c_str(), "M", "lm_head.weight"), Names{"lm_head.weight"});
  }
}

TEST(TensorNames, MixerAndMlpUnderOneIndex) {
  const auto bamba = [](const char* parameter) { return names_of("bamba", "M-*-", parameter); };
  EXPECT_EQ(bamba("embedding.weight"), Names{"model.embed_tokens.weight"});
  EXPECT_EQ(bamba("final_norm.weight"), Names{"model.final_layernorm.weight"});
  EXPECT_EQ(bamba("layers.0.norm.weight"), Names{"model.layers.0.input_layernorm.weight"});
  EXPECT_EQ(bamba("layers.0.mixer.D"), Names{"model.layers.0.mamba.D"});
  EXPECT_EQ(bamba("layers.1.norm.weight"), Names{"model.layers.0.pre_ff_layernorm.weight"});
  EXPECT_EQ(bamba("layers.2.attention.o_proj.bias"), Names{"model.layers.1.self_attn.o_proj.bias"});
  EXPECT_EQ(
      bamba("layers.3.mlp.down_proj.weight"),
      Names{"model.layers.1.feed_forward.down_proj.weight"});
  const auto granite = [](const char* parameter) {
    return names_of("granitemoehybrid", "M-*-", parameter);
  };
  EXPECT_EQ(granite("final_norm.weight"), Names{"model.norm.weight"});
  EXPECT_EQ(
      granite("layers.3.norm.weight"), Names{"model.layers.1.post_attention_layernorm.weight"});
}

TEST(TensorNames, GateAndUpAreOneTensorOrTwo) {
  EXPECT_EQ(
      names_of("bamba", "M-", "layers.1.mlp.up_proj.weight"),
      (Names{
          "model.layers.0.feed_forward.gate_proj.weight",
          "model.layers.0.feed_forward.up_proj.weight"}));
  EXPECT_EQ(
      names_of("granitemoehybrid", "M-", "layers.1.mlp.up_proj.weight"),
      Names{"model.layers.0.shared_mlp.input_linear.weight"});
  const Family& bamba = find_family("bamba");
  const TensorPlace place = place_of(bamba, "M-", "model", "layers.1.mlp.up_proj.weight");
  at::Tensor packed = at::arange(12).view({4, 3});
  const std::vector<at::Tensor> parts = parts_of(packed, place);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_TRUE(at::equal(parts[0], packed.narrow(0, 0, 2)));
  EXPECT_TRUE(at::equal(parts[1], packed.narrow(0, 2, 2)));
  parts[1].fill_(7); // they are views: a model is read into them
  EXPECT_EQ(packed[3][2].item<int>(), 7);
  const TensorPlace bias = place_of(bamba, "M-", "model", "layers.1.mlp.up_proj.bias");
  EXPECT_EQ(parts_of(at::arange(4), bias)[1].sizes(), at::IntArrayRef({2}));
}

TEST(TensorNames, TapsOfTheConvolutionHaveADimOfTheirOwn) {
  const Family& family = find_family("mamba2");
  const TensorPlace taps = place_of(family, "M", "backbone", "layers.0.mixer.conv1d.weight");
  EXPECT_TRUE(taps.depthwise);
  EXPECT_EQ(parts_of(at::zeros({6, 4}), taps).front().sizes(), at::IntArrayRef({6, 1, 4}));
  const TensorPlace bias = place_of(family, "M", "backbone", "layers.0.mixer.conv1d.bias");
  EXPECT_FALSE(bias.depthwise);
  EXPECT_EQ(parts_of(at::zeros({6}), bias).front().sizes(), at::IntArrayRef({6}));
}

TEST(TensorNames, OtherRootsAreTakenWhole) {
  const Family& family = find_family("nemotron_h");
  EXPECT_EQ(
      place_of(family, "M", "model", "layers.0.norm.weight").theirs,
      Names{"model.layers.0.norm.weight"});
}

TEST(TensorNames, ParametersWithoutAPlaceAreNamed) {
  const auto refusal = [](const char* family, const char* layers, const char* parameter) {
    return message_of([&] { names_of(family, layers, parameter); });
  };
  EXPECT_EQ(
      refusal("mamba2", "M", "extra.weight"), "family mamba2 has no place for \"extra.weight\"");
  EXPECT_EQ(
      refusal("mamba2", "M-", "layers.1.mlp.up_proj.weight"),
      "family mamba2 has no place for \"layers.1.mlp.up_proj.weight\"");
  EXPECT_EQ(
      refusal("bamba", "M-", "layers.0.attention.q_proj.weight"),
      "family bamba has no place for \"layers.0.attention.q_proj.weight\"");
  EXPECT_EQ(refusal("mamba2", "M", "embeddings"), "family mamba2 has no place for \"embeddings\"");
  for (const char* name :
       {"layers.1.norm.weight",
        "layers.x.norm.weight",
        "layers.-1.norm.weight",
        "layers.0",
        "layers.0norm",
        "layers.",
        "layers.99999999999999999999.norm.weight"}) {
    EXPECT_EQ(
        refusal("mamba2", "M", name), std::string("no layer has the parameter \"") + name + "\"");
  }
}

} // namespace
} // namespace baton::checkpoint::hf
