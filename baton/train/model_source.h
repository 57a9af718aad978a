// SPDX-License-Identifier: Apache-2.0
// A model on disk, whoever wrote it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "baton/train/recipe.h"

namespace baton::train {

struct ModelSource {
  Recipe recipe; ///< of a Hugging Face folder: its model section alone
  /// What make_tokenizer() takes; none for a Hugging Face folder that holds no tokenizer, and what
  /// was made of one.
  std::optional<std::string> tokenizer;
  nlohmann::json source_config; ///< the config.json that the weights came with, or null
  /// Fills tensors by parameter name and converts their dtypes; they must be those of the recipe's
  /// model. Throws `Error`, naming file and tensor, on a difference.
  std::function<void(const std::map<std::string, at::Tensor>&)> read_parameters;
};

/// Opens a run folder for its newest whole checkpoint, a checkpoint, or a Hugging Face folder.
/// Throws `Error` that names what is wrong with it.
ModelSource open_model(const std::string& path);

} // namespace baton::train
