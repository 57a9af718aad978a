// SPDX-License-Identifier: Apache-2.0
// MODEL on a command line: a run folder, a checkpoint or a Hugging Face folder, loaded with its
// tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "baton/data/tokenizer.h"
#include "baton/model/hybrid_model.h"
#include "baton/train/recipe.h"

namespace baton {

struct LoadOptions {
  std::string device = "cpu";           ///< as ops::open_device() takes it
  int threads = 0;                      ///< 0 takes all cores
  std::vector<std::string> assignments; ///< KEY=VALUE over the model's section of its recipe
};

struct LoadedModel {
  train::Recipe recipe; ///< of a Hugging Face folder: its model section alone
  std::unique_ptr<model::HybridModel> model;
  std::unique_ptr<const Tokenizer> tokenizer; ///< null for a Hugging Face folder without one
  nlohmann::json source_config; ///< the config.json that the weights came with, or null
};

/// The tokenizer is the one in the model's folder, or else the one that its recipe names. Throws
/// Error naming the file when there is no whole model.
LoadedModel load_model(const std::string& path, const LoadOptions& options);

/// The model's tokenizer. Throws Error where it has none.
const Tokenizer& tokenizer_of(const LoadedModel& loaded, const std::string& path);

/// --device of a command.
void add_device_option(CLI::App& command, std::string& device);

/// The positional argument, --set, --device and --threads of a command on a model.
void add_load_options(CLI::App& command, std::string& model, LoadOptions& options);

} // namespace baton
