// SPDX-License-Identifier: Apache-2.0
// A folder as Hugging Face's programs write them: config.json and safetensors, whole or in shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "baton/checkpoint/hf/family.h"
#include "baton/checkpoint/hf/tensor_names.h"
#include "baton/checkpoint/safetensors.h"
#include "baton/model/config.h"

namespace baton::checkpoint::hf {

/// "[2, 3]"
std::string shape_text(const std::vector<std::int64_t>& shape);

/// Whether a folder holds a config.json.
bool is_model_folder(const std::filesystem::path& folder);

/// An open folder. Its files are mapped; no tensor is read before it is asked for.
class ModelFolder {
 public:
  /// Reads config.json and the headers of all tensor files. Throws `Error`, naming file and key,
  /// for what is damaged, missing, of no known family or outside of the folder. Pickle files are
  /// named and refused: reading them would execute them.
  explicit ModelFolder(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return folder_; }
  const Family& family() const { return *family_; }
  const nlohmann::json& config() const { return config_; }
  const model::ModelConfig& model_config() const { return model_config_; }

  /// Names of all tensors and the file that each lies in.
  const std::map<std::string, const SafetensorsFile*>& tensors() const { return tensors_; }
  const StoredTensor& find(const std::string& name) const;

  /// Where the parameters lie, in the names' order.
  std::vector<TensorPlace> places(const std::vector<std::string>& parameters) const;

  /// Compares the files with `targets`, by parameter name, whose values may lie nowhere (the meta
  /// device). Throws `Error`, naming file and tensor, for one that is missing or of another shape.
  void check_parameters(const std::map<std::string, at::Tensor>& targets) const;

  /// Fills `targets`, by parameter name. All names and shapes are compared before the first value
  /// is written; dtypes are converted. Memory needed beside the targets: one tensor. Throws
  /// `Error`, naming file and tensor, on a difference.
  void read_parameters(const std::map<std::string, at::Tensor>& targets) const;

  /// Bytes of all tensors.
  std::uint64_t tensor_bytes() const;

 private:
  /// The tensors of all targets, and the views of these that hold their values.
  void each_part(
      const std::map<std::string, at::Tensor>& targets,
      const std::function<void(const std::string&, const at::Tensor&)>& work) const;
  void open_tensor_files();
  void add_file(const std::string& name);
  void check_layers() const;
  void settle_dtype();

  std::filesystem::path folder_;
  nlohmann::json config_;
  const Family* family_ = nullptr;
  model::ModelConfig model_config_;
  std::map<std::string, SafetensorsFile> files_;
  std::map<std::string, const SafetensorsFile*> tensors_;
  std::string root_; ///< of the names in these files
};

} // namespace baton::checkpoint::hf
