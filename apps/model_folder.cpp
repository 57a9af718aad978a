// SPDX-License-Identifier: Apache-2.0
#include "apps/model_folder.h"

#include <utility>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "baton/base/error.h"
#include "baton/checkpoint/run_folder.h"
#include "baton/train/checkpoint_tensors.h"

namespace baton {

LoadedModel load_model(const std::string& path, const std::string& device, int threads) {
  if (threads > 0) {
    at::set_num_threads(threads);
  }
  if (device == "cuda" && !at::hasCUDA()) {
    throw Error("--device cuda: no CUDA device can be used here");
  }
  const checkpoint::Checkpoint found = checkpoint::open_model(path);
  LoadedModel loaded;
  loaded.recipe = train::parse_recipe(found.recipe(), found.path().string() + "/recipe.toml");
  loaded.model = std::make_unique<model::HybridModel>(loaded.recipe.model);
  loaded.model->parameters().allocate(loaded.model->dtype(), at::Device(device));
  found.load_parameters(train::parameter_tensors(loaded.model->parameters()));
  loaded.tokenizer = make_tokenizer(loaded.recipe.data.tokenizer);
  return loaded;
}

} // namespace baton
