// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/export.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/checkpoint/folder_writer.h"
#include "baton/checkpoint/hf/tensor_names.h"
#include "baton/checkpoint/safetensors.h"
#include "baton/model/pattern.h"

namespace baton::checkpoint::hf {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The family and its config.json of a model.
std::pair<const Family*, Json> chosen_family(
    const model::ModelConfig& config,
    const ExportOptions& options) {
  if (options.family != nullptr) {
    return {options.family, write_model_config(*options.family, config, options.base)};
  }
  std::string refusals;
  std::vector<const Family*> candidates;
  for (const Family& family : families()) {
    const bool own = !options.base.empty() && family.owns(options.base);
    candidates.insert(own ? candidates.begin() : candidates.end(), &family);
  }
  for (const Family* family : candidates) {
    try {
      return {family, write_model_config(*family, config, options.base)};
    } catch (const Error& error) {
      refusals += "; " + family->name + ": " + error.what();
    }
  }
  throw Error("no family can hold this model" + refusals);
}

/// Whether every parameter that is wider than `dtype` keeps all its bits in it.
bool narrows_without_loss(
    const std::map<std::string, at::Tensor>& parameters,
    at::ScalarType dtype) {
  return std::all_of(parameters.begin(), parameters.end(), [&](const auto& entry) {
    const at::Tensor& value = entry.second;
    return value.scalar_type() == dtype ||
           at::equal(value.to(dtype).to(value.scalar_type()), value);
  });
}

std::vector<NamedTensor> tensors_of(
    const Family& family,
    const model::ModelConfig& config,
    const std::map<std::string, at::Tensor>& parameters,
    std::optional<at::ScalarType> dtype) {
  const std::string layers = model::parse_pattern(config.pattern).layers;
  std::vector<NamedTensor> tensors;
  for (const auto& [name, value] : parameters) {
    const TensorPlace place = place_of(family, layers, family.roots.front(), name);
    const auto parts = parts_of(value, place);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      tensors.push_back({place.theirs[i], parts[i], dtype});
    }
  }
  return tensors;
}

std::uint64_t bytes_of(const NamedTensor& named) {
  return static_cast<std::uint64_t>(named.tensor.numel()) *
         c10::elementSize(named.dtype.value_or(named.tensor.scalar_type()));
}

/// Tensors in their order, as many a shard as fit.
std::vector<std::vector<NamedTensor>> cut_into_shards(
    std::vector<NamedTensor> tensors,
    std::uint64_t shard_bytes) {
  std::vector<std::vector<NamedTensor>> shards(1);
  std::uint64_t filled = 0;
  for (NamedTensor& tensor : tensors) {
    const std::uint64_t bytes = bytes_of(tensor);
    if (!shards.back().empty() && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

std::string shard_name(std::size_t index, std::size_t count) {
  if (count == 1) {
    return "model.safetensors";
  }
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

std::uint64_t write_tensors(
    const fs::path& folder,
    const std::vector<std::vector<NamedTensor>>& shards) {
  std::uint64_t total = 0;
  Json map = Json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    write_safetensors(folder / name, shards[i], {{"format", "pt"}});
    for (const NamedTensor& tensor : shards[i]) {
      map[tensor.name] = name;
      total += bytes_of(tensor);
    }
  }
  if (shards.size() > 1) {
    const Json index{{"metadata", {{"total_size", total}}}, {"weight_map", map}};
    write_file_atomically((folder / "model.safetensors.index.json").string(), index.dump(2) + "\n");
  }
  return total;
}

/// config.json with the type that the files have.
void name_dtype(Json& config, at::ScalarType dtype) {
  const std::string word = dtype == at::kBFloat16 ? "bfloat16"
                           : dtype == at::kHalf   ? "float16"
                           : dtype == at::kDouble ? "float64"
                                                  : "float32";
  const bool older = config.contains("torch_dtype") && !config.contains("dtype");
  config[older ? "torch_dtype" : "dtype"] = word;
}

} // namespace

ExportReport export_model(
    const fs::path& path,
    const model::ModelConfig& config,
    const std::map<std::string, at::Tensor>& parameters,
    const ExportOptions& options) {
  auto [family, json] = chosen_family(config, options);
  const at::ScalarType own = config.scalar_type();
  std::optional<at::ScalarType> dtype = options.dtype;
  if (!dtype && narrows_without_loss(parameters, own)) {
    dtype = own;
  }
  if (!family->architecture.empty()) {
    name_dtype(json, dtype.value_or(own));
  }
  const auto shards =
      cut_into_shards(tensors_of(*family, config, parameters, dtype), options.shard_bytes);
  FolderWriter folder(path);
  ExportReport report{
      .family = family->name,
      .tensor_bytes = write_tensors(folder.aside(), shards),
      .shards = static_cast<std::int64_t>(shards.size())};
  for (const auto& [name, bytes] : options.files) {
    write_file_atomically((folder.aside() / name).string(), bytes);
  }
  write_file_atomically((folder.aside() / "config.json").string(), json.dump(2) + "\n");
  folder.commit();
  return report;
}

} // namespace baton::checkpoint::hf
