// SPDX-License-Identifier: Apache-2.0
#include "apps/model_folder.h"

#include <utility>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "baton/base/error.h"
#include "baton/base/log.h"
#include "baton/checkpoint/hf/model_folder.h"
#include "baton/checkpoint/load.h"

namespace baton {

LoadedModel load_model(const std::string& path, const std::string& device, int threads) {
  if (threads > 0) {
    at::set_num_threads(threads);
  }
  if (device == "cuda" && !at::hasCUDA()) {
    throw Error("--device cuda: no CUDA device can be used here");
  }
  LoadedModel loaded;
  if (checkpoint::hf::is_model_folder(path)) {
    const checkpoint::hf::ModelFolder folder(path);
    loaded.recipe.model = folder.model_config();
    loaded.model = std::make_unique<model::HybridModel>(loaded.recipe.model);
    loaded.model->parameters().allocate(loaded.recipe.model.scalar_type(), at::Device(device));
    folder.read_parameters(nn::parameter_tensors(loaded.model->parameters()));
    loaded.tokenizer = make_tokenizer(loaded.recipe.data.tokenizer);
    return loaded;
  }
  const checkpoint::Checkpoint found = checkpoint::resolve_model(path, log_warning);
  loaded.recipe = train::parse_recipe(found.recipe(), found.folder().string() + "/recipe.toml");
  loaded.model = std::make_unique<model::HybridModel>(loaded.recipe.model);
  loaded.model->parameters().allocate(loaded.recipe.model.scalar_type(), at::Device(device));
  found.read_parameters(nn::parameter_tensors(loaded.model->parameters()));
  // The checkpoint's own copy is there wherever the checkpoint is; the recipe's path may not be.
  loaded.tokenizer = make_tokenizer(
      find_tokenizer(found.folder().string()).value_or(loaded.recipe.data.tokenizer));
  if (loaded.tokenizer->vocab_size() > loaded.model->config().vocabulary) {
    throw Error(
        loaded.tokenizer->name() + ": has " + std::to_string(loaded.tokenizer->vocab_size()) +
        " token ids, but the model " + std::to_string(loaded.model->config().vocabulary));
  }
  return loaded;
}

} // namespace baton
