// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/export.h"

#include <limits>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/hf/model_folder.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint {

namespace testing {
extern void (*before_write)(const std::string& file);
} // namespace testing

namespace hf {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Parameters = std::map<std::string, at::Tensor>;

model::ModelConfig small_model(const std::string& dtype) {
  model::ModelConfig config;
  config.pattern = "M-";
  config.width = 8;
  config.vocabulary = 6;
  config.dtype = dtype;
  config.mamba.num_heads = 2;
  config.mamba.head_dim = 8;
  config.mlp.hidden = 4;
  config.mlp.activation = "swiglu";
  return config;
}

/// Some of its parameters; A_log stays in fp32 beside bf16.
Parameters parameters_of(const model::ModelConfig& config) {
  const at::ScalarType dtype = config.scalar_type();
  return {
      {"embedding.weight", at::arange(48).view({6, 8}).to(dtype)},
      {"layers.0.mixer.A_log", at::arange(2, at::kFloat) / 4},
      {"layers.0.mixer.conv1d.weight", at::arange(12).view({3, 4}).to(dtype)},
      {"layers.1.mlp.up_proj.weight", at::arange(64).view({8, 8}).to(dtype)}};
}

Json config_in(const fs::path& folder) {
  return Json::parse(read_bytes(folder / "config.json"));
}

std::set<std::string> files_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& file : fs::directory_iterator(folder)) {
    names.insert(file.path().filename().string());
  }
  return names;
}

void expect_same(const fs::path& folder, const Parameters& wanted) {
  Parameters targets;
  for (const auto& [name, value] : wanted) {
    targets[name] = at::zeros_like(value);
  }
  ModelFolder(folder).read_parameters(targets);
  for (const auto& [name, value] : wanted) {
    EXPECT_TRUE(at::equal(targets.at(name), value)) << name;
  }
}

TEST(Export, WritesOneFileThatReadsBack) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path() / "out";
  const model::ModelConfig config = small_model("fp32");
  const ExportReport report =
      export_model(path, config, parameters_of(config), {.files = {{"tokenizer.json", "{}"}}});
  EXPECT_EQ(report.family, "bamba"); // the first that has gated MLPs
  EXPECT_EQ(report.shards, 1);
  EXPECT_EQ(report.tensor_bytes, (48U + 2U + 12U + 64U) * 4U);
  EXPECT_EQ(
      files_in(path),
      (std::set<std::string>{"config.json", "model.safetensors", "tokenizer.json"}));
  EXPECT_EQ(read_bytes(path / "tokenizer.json"), "{}");
  EXPECT_EQ(config_in(path)["model_type"], "bamba");
  EXPECT_EQ(config_in(path)["architectures"], Json{"BambaForCausalLM"});
  const ModelFolder folder(path);
  EXPECT_EQ(folder.tensors().size(), 5U); // gate and up are two
  EXPECT_EQ(
      folder.find("model.layers.0.mamba.conv1d.weight").shape,
      (std::vector<std::int64_t>{3, 1, 4}));
  expect_same(path, parameters_of(config));
}

TEST(Export, CutsIntoShards) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path() / "out";
  const model::ModelConfig config = small_model("fp32");
  // The embedding alone is larger than a shard may be, the others share what is left.
  const ExportReport report =
      export_model(path, config, parameters_of(config), {.shard_bytes = 180});
  EXPECT_EQ(report.shards, 4);
  EXPECT_EQ(
      files_in(path),
      (std::set<std::string>{
          "config.json",
          "model-00001-of-00004.safetensors",
          "model-00002-of-00004.safetensors",
          "model-00003-of-00004.safetensors",
          "model-00004-of-00004.safetensors",
          "model.safetensors.index.json"}));
  const Json index = Json::parse(read_bytes(path / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], report.tensor_bytes);
  EXPECT_EQ(index["weight_map"].size(), 5U);
  EXPECT_EQ(index["weight_map"]["model.layers.0.mamba.A_log"], "model-00002-of-00004.safetensors");
  expect_same(path, parameters_of(config));
}

TEST(Export, WritesTheDtypeThatIsAskedFor) {
  const model::ModelConfig config = small_model("fp32");
  const std::vector<std::tuple<at::ScalarType, StoredDtype, const char*>> cases{
      {at::kFloat, StoredDtype::kF32, "float32"},
      {at::kBFloat16, StoredDtype::kBF16, "bfloat16"},
      {at::kHalf, StoredDtype::kF16, "float16"},
      {at::kDouble, StoredDtype::kF64, "float64"}};
  for (const auto& [dtype, stored, word] : cases) {
    const ScratchFolder scratch;
    const fs::path path = scratch.path() / "out";
    export_model(path, config, parameters_of(config), {.dtype = dtype});
    EXPECT_EQ(config_in(path)["dtype"], word);
    const ModelFolder folder(path);
    for (const auto& [name, file] : folder.tensors()) {
      EXPECT_EQ(folder.find(name).dtype, stored) << name << " " << word;
    }
    expect_same(path, parameters_of(config)); // values that all of them hold
  }
}

TEST(Export, WideParametersAreNarrowedWhereThatLosesNothing) {
  const model::ModelConfig config = small_model("bf16");
  Parameters parameters = parameters_of(config);
  const char* const name = "model.layers.0.mamba.A_log";
  {
    const ScratchFolder scratch;
    export_model(scratch.path() / "out", config, parameters, {});
    EXPECT_EQ(ModelFolder(scratch.path() / "out").find(name).dtype, StoredDtype::kBF16);
    expect_same(scratch.path() / "out", parameters);
  }
  parameters["layers.0.mixer.A_log"] += 1e-4;
  {
    const ScratchFolder scratch;
    export_model(scratch.path() / "out", config, parameters, {});
    const ModelFolder folder(scratch.path() / "out");
    EXPECT_EQ(folder.find(name).dtype, StoredDtype::kF32);
    EXPECT_EQ(folder.find("model.embed_tokens.weight").dtype, StoredDtype::kBF16);
    EXPECT_EQ(config_in(scratch.path() / "out")["dtype"], "bfloat16");
    expect_same(scratch.path() / "out", parameters);
  }
}

TEST(Export, TheConfigThatTheModelCameWithStays) {
  const ScratchFolder scratch;
  const model::ModelConfig config = small_model("bf16");
  Json base = write_model_config(
      find_family("granitemoehybrid"),
      [&] {
        model::ModelConfig nope = config;
        nope.attention.rotary.enabled = false;
        return nope;
      }(),
      Json::object());
  base["of_its_own"] = "kept";
  base["torch_dtype"] = base["dtype"];
  base.erase("dtype");
  const ExportReport report =
      export_model(scratch.path() / "out", config, parameters_of(config), {.base = base});
  EXPECT_EQ(report.family, "granitemoehybrid");
  EXPECT_EQ(config_in(scratch.path() / "out"), base);
}

TEST(Export, ModelsThatNoFamilyHoldsSayWhyOfEach) {
  const ScratchFolder scratch;
  model::ModelConfig config = small_model("fp32");
  config.mamba.d_per_channel = true;
  const std::string message =
      message_of([&] { export_model(scratch.path() / "out", config, parameters_of(config), {}); });
  EXPECT_EQ(message.rfind("no family can hold this model; nemotron_h: ", 0), 0U) << message;
  for (const Family& family : families()) {
    EXPECT_NE(message.find("; " + family.name + ": "), std::string::npos) << message;
  }
  EXPECT_NE(message.find("model.mamba.d_per_channel"), std::string::npos) << message;
  EXPECT_TRUE(files_in(scratch.path()).empty());
}

TEST(Export, NothingStaysWhenWritingFails) {
  const ScratchFolder scratch;
  const model::ModelConfig config = small_model("fp32");
  testing::before_write = [](const std::string& file) {
    if (file == "model-00003-of-00004.safetensors") {
      throw RunError("the disk is full");
    }
  };
  EXPECT_THROW(
      export_model(scratch.path() / "out", config, parameters_of(config), {.shard_bytes = 180}),
      RunError);
  testing::before_write = nullptr;
  EXPECT_TRUE(files_in(scratch.path()).empty());
  write_bytes(scratch.path() / "out", "mine");
  EXPECT_EQ(
      message_of([&] { export_model(scratch.path() / "out", config, parameters_of(config), {}); }),
      (scratch.path() / "out").string() + ": is there already");
  EXPECT_EQ(read_bytes(scratch.path() / "out"), "mine");
}

} // namespace
} // namespace hf
} // namespace baton::checkpoint
