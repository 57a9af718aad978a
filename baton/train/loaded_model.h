// SPDX-License-Identifier: Apache-2.0
// A model in memory with its tokenizer, from whatever folder holds it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "baton/data/tokenizer.h"
#include "baton/model/hybrid_model.h"
#include "baton/train/recipe.h"

namespace baton::train {

struct LoadSettings {
  std::string device = "cpu";           ///< as ops::open_device() takes it
  std::vector<std::string> assignments; ///< "model.KEY=VALUE" over the model's section
};

struct LoadedModel {
  Recipe recipe; ///< of a Hugging Face folder: its model section alone
  std::unique_ptr<model::HybridModel> model;
  std::unique_ptr<const Tokenizer> tokenizer; ///< null for a Hugging Face folder without one
  nlohmann::json source_config; ///< the config.json that the weights came with, or null
};

/// Opens `path` as `open_model` does, and reads it onto a device. The tokenizer is the one in the
/// model's folder, or else the one that its recipe names. Throws Error naming the file when there
/// is no whole model, and for a device or an assignment that cannot be.
LoadedModel load_model(const std::string& path, const LoadSettings& settings);

} // namespace baton::train
