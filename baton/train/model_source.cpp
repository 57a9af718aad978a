// SPDX-License-Identifier: Apache-2.0
#include "baton/train/model_source.h"

#include <chrono>
#include <cstdio>
#include <memory>
#include <utility>

#include "baton/base/log.h"
#include "baton/checkpoint/hf/model_folder.h"
#include "baton/checkpoint/load.h"
#include "baton/data/tokenizer.h"
#include "baton/model/hybrid_model.h"

namespace baton::train {
namespace {

constexpr double kBytesWorthALine = 1e9;

/// Says how fast a large folder was read.
void report_speed(const std::string& path, double bytes, double seconds) {
  if (bytes >= kBytesWorthALine) {
    char text[96];
    std::snprintf(
        text,
        sizeof(text),
        ": read %.1f GB in %.1f s, %.2f GB/s",
        bytes / 1e9,
        seconds,
        bytes / 1e9 / seconds);
    log_info(path + text);
  }
}

ModelSource open_model_folder(const std::string& path) {
  const auto folder = std::make_shared<const checkpoint::hf::ModelFolder>(path);
  // Before anyone asks for the memory of sizes that the files do not have.
  model::HybridModel model(folder->model_config());
  model.parameters().allocate(at::kFloat, at::kMeta);
  folder->check_parameters(nn::parameter_tensors(model.parameters()));
  ModelSource source;
  source.recipe.model = folder->model_config();
  source.tokenizer = find_tokenizer(path);
  source.source_config = folder->config();
  source.read_parameters = [folder](const auto& targets) {
    const auto start = std::chrono::steady_clock::now();
    folder->read_parameters(targets);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    report_speed(
        folder->path().string(), static_cast<double>(folder->tensor_bytes()), seconds.count());
  };
  return source;
}

ModelSource open_checkpoint(const std::string& path) {
  const auto found =
      std::make_shared<const checkpoint::Checkpoint>(checkpoint::resolve_model(path, log_warning));
  ModelSource source;
  source.recipe = parse_recipe(found->recipe(), found->folder().string() + "/recipe.toml");
  // The folder's own copy is there wherever the folder is; the recipe's path may not be.
  source.tokenizer = find_tokenizer(found->folder().string());
  if (!source.tokenizer && !source.recipe.data.tokenizer.empty()) {
    source.tokenizer = source.recipe.data.tokenizer;
  }
  source.source_config = found->train_state().value("source_config", nlohmann::json());
  source.read_parameters = [found](const auto& targets) {
    found->read_parameters(targets, checkpoint::DtypeRule::kConvert);
  };
  return source;
}

} // namespace

ModelSource open_model(const std::string& path) {
  return checkpoint::hf::is_model_folder(path) ? open_model_folder(path) : open_checkpoint(path);
}

} // namespace baton::train
