// SPDX-License-Identifier: Apache-2.0
#include "apps/model_folder.h"

#include <ATen/Parallel.h>

#include "baton/base/error.h"
#include "baton/ops/device.h"

namespace baton {

LoadedModel load_model(const std::string& path, const LoadOptions& options) {
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  }
  ops::open_device(options.device, "--device");
  ops::set_arithmetic(/*deterministic=*/true);
  for (const std::string& assignment : options.assignments) {
    if (assignment.rfind("model.", 0) != 0) {
      throw Error("--set: only keys of the model can be set here, got " + assignment);
    }
  }
  return train::load_model(path, {options.device, options.assignments});
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
