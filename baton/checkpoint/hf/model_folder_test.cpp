// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/model_folder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint::hf {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Parameters = std::map<std::string, at::Tensor>;

constexpr const char* kWhole = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

Json config_of_mamba2() {
  return {
      {"model_type", "mamba2"},
      {"dtype", "float32"},
      {"vocab_size", 6},
      {"hidden_size", 8},
      {"num_hidden_layers", 1},
      {"num_heads", 2},
      {"head_dim", 8},
      {"n_groups", 1}};
}

/// Some of its parameters.
Parameters parameters() {
  return {
      {"embedding.weight", at::arange(48, at::kFloat).view({6, 8})},
      {"final_norm.weight", at::arange(8, at::kFloat) - 3},
      {"layers.0.mixer.conv1d.weight", at::arange(12, at::kFloat).view({3, 4}) / 8}};
}

std::vector<NamedTensor> tensors_of(const std::string& root) {
  const Parameters ours = parameters();
  return {
      {root + ".embeddings.weight", ours.at("embedding.weight")},
      {root + ".norm_f.weight", ours.at("final_norm.weight")},
      {root + ".layers.0.mixer.conv1d.weight",
       ours.at("layers.0.mixer.conv1d.weight").unsqueeze(1)}};
}

void write_config(const fs::path& folder, const Json& config) {
  write_bytes(folder / "config.json", config.dump());
}

/// One file of tensors or two, with their index.
void write_whole(const fs::path& folder, const std::vector<NamedTensor>& tensors) {
  write_config(folder, config_of_mamba2());
  write_safetensors(folder / kWhole, tensors);
}

void write_shards(const fs::path& folder, const std::vector<NamedTensor>& tensors) {
  write_config(folder, config_of_mamba2());
  Json map;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string name = "shard-" + std::to_string(i) + ".safetensors";
    write_safetensors(folder / name, {tensors[i]});
    map[tensors[i].name] = name;
  }
  write_bytes(folder / kIndex, Json{{"weight_map", map}}.dump());
}

Parameters read(const ModelFolder& folder, at::ScalarType dtype = at::kFloat) {
  Parameters targets;
  for (const auto& [name, value] : parameters()) {
    targets[name] = at::full_like(value, -1.0, value.options().dtype(dtype));
  }
  folder.read_parameters(targets);
  return targets;
}

void expect_read(const ModelFolder& folder) {
  const Parameters found = read(folder);
  for (const auto& [name, value] : parameters()) {
    EXPECT_TRUE(at::equal(found.at(name), value)) << name;
  }
}

std::string refusal_of(const fs::path& folder) {
  return message_of([&] { read(ModelFolder(folder)); });
}

TEST(ModelFolder, ReadsOneFile) {
  const ScratchFolder scratch;
  EXPECT_FALSE(is_model_folder(scratch.path()));
  write_whole(scratch.path(), tensors_of("backbone"));
  EXPECT_TRUE(is_model_folder(scratch.path()));
  const ModelFolder folder(scratch.path());
  EXPECT_EQ(folder.family().name, "mamba2");
  EXPECT_EQ(folder.model_config().width, 8);
  EXPECT_EQ(folder.tensors().size(), 3U);
  EXPECT_EQ(folder.tensor_bytes(), (48U + 8U + 12U) * 4U);
  EXPECT_EQ(folder.find("backbone.norm_f.weight").shape, std::vector<std::int64_t>{8});
  expect_read(folder);
}

TEST(ModelFolder, ReadsShards) {
  const ScratchFolder scratch;
  write_shards(scratch.path(), tensors_of("backbone"));
  const ModelFolder folder(scratch.path());
  EXPECT_EQ(folder.tensors().size(), 3U);
  EXPECT_NE(
      folder.tensors().at("backbone.norm_f.weight"),
      folder.tensors().at("backbone.embeddings.weight"));
  expect_read(folder);
}

TEST(ModelFolder, ReadsOtherRoots) {
  const ScratchFolder scratch;
  Json config{
      {"model_type", "nemotron_h"},
      {"vocab_size", 6},
      {"hidden_size", 8},
      {"layers_block_type", {"mamba"}}};
  for (const char* root : {"backbone", "model"}) {
    write_whole(scratch.path(), tensors_of(root));
    write_config(scratch.path(), config);
    expect_read(ModelFolder(scratch.path()));
  }
}

TEST(ModelFolder, ConvertsDtypes) {
  const ScratchFolder scratch;
  std::vector<NamedTensor> tensors = tensors_of("backbone");
  tensors[0].dtype = at::kHalf;
  tensors[1].dtype = at::kBFloat16;
  tensors[2].dtype = at::kDouble;
  write_whole(scratch.path(), tensors);
  expect_read(ModelFolder(scratch.path()));
  const Parameters narrow = read(ModelFolder(scratch.path()), at::kBFloat16);
  EXPECT_TRUE(at::equal(
      narrow.at("final_norm.weight"), parameters().at("final_norm.weight").to(at::kBFloat16)));
}

TEST(ModelFolder, ConfigsWithoutADtypeTakeThatOfTheFiles) {
  const ScratchFolder scratch;
  const std::vector<std::pair<at::ScalarType, const char*>> cases{
      {at::kHalf, "fp32"}, {at::kBFloat16, "bf16"}, {at::kFloat, "fp32"}, {at::kDouble, "fp64"}};
  for (const auto& [stored, wanted] : cases) {
    std::vector<NamedTensor> tensors = tensors_of("backbone");
    tensors[0].dtype = stored;
    write_whole(scratch.path(), tensors);
    Json config = config_of_mamba2();
    config["dtype"] = nullptr;
    write_config(scratch.path(), config);
    EXPECT_EQ(ModelFolder(scratch.path()).model_config().dtype, wanted);
    config["torch_dtype"] = "bfloat16";
    write_config(scratch.path(), config);
    EXPECT_EQ(ModelFolder(scratch.path()).model_config().dtype, "bf16");
  }
}

TEST(ModelFolder, NothingIsReadWhereAShapeDiffers) {
  const ScratchFolder scratch;
  std::vector<NamedTensor> tensors = tensors_of("backbone");
  tensors[1].tensor = at::zeros({2, 4});
  write_whole(scratch.path(), tensors);
  const ModelFolder folder(scratch.path());
  Parameters targets{
      {"embedding.weight", at::full({6, 8}, -1.0)}, {"final_norm.weight", at::full({8}, -1.0)}};
  EXPECT_EQ(
      message_of([&] { folder.read_parameters(targets); }),
      (scratch.path() / kWhole).string() +
          ": tensor \"backbone.norm_f.weight\" has shape [2, 4], the config means [8]");
  EXPECT_TRUE(targets.at("embedding.weight").eq(-1.0).all().item<bool>());
}

TEST(ModelFolder, ParametersAreComparedBeforeTheyHaveMemory) {
  const ScratchFolder scratch;
  write_whole(scratch.path(), tensors_of("backbone"));
  const ModelFolder folder(scratch.path());
  const auto nowhere = at::TensorOptions(at::kMeta).dtype(at::kFloat);
  folder.check_parameters({{"embedding.weight", at::empty({6, 8}, nowhere)}});
  EXPECT_EQ(
      message_of([&] {
        folder.check_parameters(
            {{"embedding.weight", at::empty({std::int64_t{1} << 40, 8}, nowhere)}});
      }),
      (scratch.path() / kWhole).string() +
          ": tensor \"backbone.embeddings.weight\" has shape [6, 8], the config means "
          "[1099511627776, 8]");
}

TEST(ModelFolder, LayersHaveATensorAtLeast) {
  const ScratchFolder scratch;
  write_whole(scratch.path(), tensors_of("backbone"));
  Json config = config_of_mamba2();
  config["num_hidden_layers"] = 4;
  write_config(scratch.path(), config);
  EXPECT_EQ(
      refusal_of(scratch.path()),
      scratch.path().string() + ": holds 3 tensors, config.json means 4 layers");
}

TEST(ModelFolder, MissingTensorsAreNamed) {
  const ScratchFolder scratch;
  std::vector<NamedTensor> tensors = tensors_of("backbone");
  tensors.erase(tensors.begin() + 1);
  write_whole(scratch.path(), tensors);
  EXPECT_EQ(
      refusal_of(scratch.path()),
      scratch.path().string() + ": holds no tensor \"backbone.norm_f.weight\", which is wanted");
}

TEST(ModelFolder, IndexAndShardsMustAgree) {
  const ScratchFolder scratch;
  const std::vector<NamedTensor> tensors = tensors_of("backbone");
  write_shards(scratch.path(), tensors);
  fs::remove(scratch.path() / "shard-1.safetensors");
  EXPECT_EQ(
      refusal_of(scratch.path()),
      (scratch.path() / "shard-1.safetensors").string() + ": is missing, " + kIndex + " names it");
  write_safetensors(scratch.path() / "shard-1.safetensors", {tensors[0]});
  EXPECT_EQ(
      refusal_of(scratch.path()),
      (scratch.path() / "shard-1.safetensors").string() +
          ": holds no tensor \"backbone.norm_f.weight\", which " + kIndex + " says it does");
  write_safetensors(scratch.path() / "shard-1.safetensors", {tensors[0], tensors[1]});
  EXPECT_EQ(
      refusal_of(scratch.path()),
      (scratch.path() / "shard-1.safetensors").string() +
          ": holds the tensor \"backbone.embeddings.weight\", another file too");
}

TEST(ModelFolder, LinksStayInTheFolderOrInTheHubsCache) {
  const ScratchFolder scratch;
  // As the hub's cache has them: snapshots/REVISION/NAME links to blobs/HASH.
  const fs::path home = scratch.path() / "models--x" / "snapshots" / "abc";
  const fs::path blobs = scratch.path() / "models--x" / "blobs";
  fs::create_directories(home);
  fs::create_directories(blobs);
  write_whole(blobs, tensors_of("backbone"));
  fs::create_symlink("../../blobs/config.json", home / "config.json");
  fs::create_symlink("../../blobs/model.safetensors", home / kWhole);
  expect_read(ModelFolder(home));
  // A folder under any other name has no such neighbour.
  const fs::path other = scratch.path() / "models--x" / "other" / "abc";
  fs::create_directories(other);
  write_config(other, config_of_mamba2());
  fs::create_symlink("../../blobs/model.safetensors", other / kWhole);
  EXPECT_EQ(
      refusal_of(other),
      (other / kWhole).string() + ": is a link out of the folder, to " +
          fs::canonical(blobs / kWhole).string());
  // Within the folder a link may go anywhere.
  fs::remove(other / kWhole);
  write_safetensors(other / "tensors", tensors_of("backbone"));
  fs::create_symlink("tensors", other / kWhole);
  expect_read(ModelFolder(other));
  // The folder itself may be reached by a link.
  fs::create_directory_symlink(other, scratch.path() / "link");
  expect_read(ModelFolder(scratch.path() / "link"));
}

TEST(ModelFolder, PickleFilesAreNamedAndNotRead) {
  const ScratchFolder scratch;
  write_config(scratch.path(), config_of_mamba2());
  EXPECT_EQ(
      refusal_of(scratch.path()),
      scratch.path().string() + ": holds neither " + kWhole + " nor " + kIndex);
  for (const char* name : {"weights.pt", "pytorch_model.bin"}) {
    write_bytes(scratch.path() / name, "");
    EXPECT_EQ(
        refusal_of(scratch.path()),
        (scratch.path() / name).string() +
            ": is a pickle file, which would execute what it holds; save it as safetensors");
  }
}

TEST(ModelFolder, WhatIsNoRegularFileIsRefused) {
  for (const char* name : {"config.json", kWhole, kIndex}) {
    const ScratchFolder scratch;
    write_whole(scratch.path(), tensors_of("backbone"));
    const fs::path path = scratch.path() / name;
    fs::remove(path);
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_EQ(refusal_of(scratch.path()), path.string() + ": is not a regular file");
    fs::remove(path);
    fs::create_directory(path);
    EXPECT_EQ(refusal_of(scratch.path()), path.string() + ": is not a regular file");
  }
}

TEST(ModelFolder, TextsOfAnySizeAreNotRead) {
  const ScratchFolder scratch;
  write_whole(scratch.path(), tensors_of("backbone"));
  fs::resize_file(scratch.path() / "config.json", std::uintmax_t{1} << 40);
  EXPECT_EQ(
      refusal_of(scratch.path()),
      (scratch.path() / "config.json").string() + ": is larger than 100 MB");
}

TEST(ModelFolder, ErrorsOfTextsNameTheFile) {
  const ScratchFolder scratch;
  write_whole(scratch.path(), tensors_of("backbone"));
  write_bytes(scratch.path() / kIndex, R"({"weight_map": {"a": "../x"}})");
  EXPECT_EQ(
      refusal_of(scratch.path()),
      (scratch.path() / kIndex).string() +
          ": weight_map.\"a\" must be the name of a file in the folder");
  write_bytes(scratch.path() / "config.json", "{");
  EXPECT_EQ(
      refusal_of(scratch.path()),
      (scratch.path() / "config.json").string() + ": not valid JSON at byte 2");
}

} // namespace
} // namespace baton::checkpoint::hf
