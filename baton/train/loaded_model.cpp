// SPDX-License-Identifier: Apache-2.0
#include "baton/train/loaded_model.h"

#include "baton/base/error.h"
#include "baton/ops/device.h"
#include "baton/train/model_source.h"

namespace baton::train {
LoadedModel load_model(const std::string& path, const LoadSettings& settings) {
  const at::Device device = ops::open_device(settings.device, "device");
  const ModelSource source = open_model(path);
  LoadedModel loaded;
  loaded.recipe = source.recipe;
  loaded.source_config = source.source_config;
  for (const std::string& assignment : settings.assignments) {
    if (assignment.rfind("model.", 0) != 0) {
      throw Error("only keys of the model can be set here, got " + assignment);
    }
    set_config(loaded.recipe, assignment);
  }
  model::ModelConfig& config = loaded.recipe.model;
  config.settle_dtype(device);
  loaded.model = std::make_unique<model::HybridModel>(config);
  loaded.model->parameters().allocate(config.scalar_type(), device);
  source.read_parameters(nn::parameter_tensors(loaded.model->parameters()));
  if (source.tokenizer) {
    loaded.tokenizer = make_tokenizer(*source.tokenizer);
    if (loaded.tokenizer->vocab_size() > config.vocabulary) {
      throw Error(
          loaded.tokenizer->name() + ": has " + std::to_string(loaded.tokenizer->vocab_size()) +
          " token ids, but the model " + std::to_string(config.vocabulary));
    }
  }
  return loaded;
}

} // namespace baton::train
