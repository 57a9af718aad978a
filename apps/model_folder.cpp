// SPDX-License-Identifier: Apache-2.0
#include "apps/model_folder.h"

#include <utility>

#include <ATen/Parallel.h>

#include "baton/base/error.h"
#include "baton/ops/device.h"
#include "baton/train/model_source.h"

namespace baton {

LoadedModel load_model(const std::string& path, const LoadOptions& options) {
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  }
  const at::Device device = ops::open_device(options.device, "--device");
  ops::set_arithmetic(/*deterministic=*/true);
  const train::ModelSource source = train::open_model(path);
  LoadedModel loaded;
  loaded.recipe = source.recipe;
  loaded.source_config = source.source_config;
  for (const std::string& assignment : options.assignments) {
    if (assignment.rfind("model.", 0) != 0) {
      throw Error("--set: only keys of the model can be set here, got " + assignment);
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

const Tokenizer& tokenizer_of(const LoadedModel& loaded, const std::string& path) {
  if (loaded.tokenizer == nullptr) {
    throw Error(path + ": holds no tokenizer (tokenizer.json or a SentencePiece .model file)");
  }
  return *loaded.tokenizer;
}

void add_device_option(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device, "where the model runs: cpu, cuda (the first GPU) or cuda:N")
      ->capture_default_str();
}

void add_load_options(CLI::App& command, std::string& model, LoadOptions& options) {
  command.add_option("model", model, "run folder, checkpoint or Hugging Face folder")->required();
  command.add_option(
      "--set",
      options.assignments,
      "override a key of the model: model.mamba.dt_min=0.001; may be repeated");
  add_device_option(command, options.device);
  command.add_option("--threads", options.threads, "CPU threads; 0 takes all cores")
      ->check(CLI::NonNegativeNumber);
}

} // namespace baton
