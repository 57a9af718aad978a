// SPDX-License-Identifier: Apache-2.0
// What is wrong with the tensors of a Hugging Face folder, all of it at once.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/checkpoint/hf/model_folder.h"

namespace baton::checkpoint::hf {

/// Shapes by parameter name, as a model declares them.
using ParameterShapes = std::map<std::string, std::vector<std::int64_t>>;

struct TensorFindings {
  std::vector<std::string> missing;     ///< names that the model wants
  std::vector<std::string> wrong_shape; ///< "NAME has shape [1], the config means [2]"
  std::vector<std::string> unused;      ///< names that the model has no use for
  std::vector<std::string> not_finite;  ///< names of tensors with NaN or infinite values
};

/// Compares a folder's tensors with what its config means. Reads all of them.
TensorFindings inspect_tensors(const ModelFolder& folder, const ParameterShapes& shapes);

/// Names of the tensors that an export of `parameters` would not write as they are in the folder,
/// in their own dtype. All parameters must have been read from it.
std::vector<std::string> changed_by_export(
    const ModelFolder& folder,
    const std::map<std::string, at::Tensor>& parameters);

} // namespace baton::checkpoint::hf
