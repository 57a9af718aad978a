// SPDX-License-Identifier: Apache-2.0
// MODEL on a command line: a run folder, a checkpoint or a Hugging Face folder, loaded with its
// tokenizer.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "baton/data/tokenizer.h"
#include "baton/train/loaded_model.h"

namespace baton {

struct LoadOptions {
  std::string device = "cpu";           ///< as ops::open_device() takes it
  int threads = 0;                      ///< 0 takes all cores
  std::vector<std::string> assignments; ///< KEY=VALUE over the model's section of its recipe
};

using LoadedModel = train::LoadedModel;

/// As `train::load_model`, on as many threads. Throws Error that names the option or the file.
LoadedModel load_model(const std::string& path, const LoadOptions& options);

/// The model's tokenizer. Throws Error where it has none.
const Tokenizer& tokenizer_of(const LoadedModel& loaded, const std::string& path);

/// --device of a command.
void add_device_option(CLI::App& command, std::string& device);

/// The positional argument, --set, --device and --threads of a command on a model.
void add_load_options(CLI::App& command, std::string& model, LoadOptions& options);

} // namespace baton
