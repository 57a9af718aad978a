// SPDX-License-Identifier: Apache-2.0
// Writes a model as a Hugging Face folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "baton/checkpoint/hf/family.h"
#include "baton/model/config.h"

namespace baton::checkpoint::hf {

struct ExportOptions {
  const Family* family = nullptr; ///< null: that of `base`, or the first that can hold the model
  /// Of the files. By default the model's own; parameters kept in fp32 beside bf16 are then written
  /// as bf16 if that loses nothing of any of them.
  std::optional<at::ScalarType> dtype{};
  std::uint64_t shard_bytes = 5'000'000'000;      ///< of tensors a file holds, at least one tensor
  nlohmann::json base = nlohmann::json::object(); ///< config.json that the model came with
  std::map<std::string, std::string> files{};     ///< further files, bytes by name: the tokenizer
};

struct ExportReport {
  std::string family;
  std::uint64_t tensor_bytes = 0;
  std::int64_t shards = 0;
};

/// Makes the folder `path` whole or not at all. Memory needed beside the parameters: one tensor.
/// Throws `Error` where `path` is there already or no family can hold the model, `RunError` when
/// the disk is full or fails.
ExportReport export_model(
    const std::filesystem::path& path,
    const model::ModelConfig& config,
    const std::map<std::string, at::Tensor>& parameters,
    const ExportOptions& options);

} // namespace baton::checkpoint::hf
