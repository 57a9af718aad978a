// SPDX-License-Identifier: Apache-2.0
// Reading checkpoints: verified before use, with the one before in place of a damaged one.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "baton/checkpoint/manifest.h"
#include "baton/checkpoint/run_folder.h"
#include "baton/checkpoint/safetensors.h"
#include "baton/parallel/tensor_slice.h"

namespace baton::checkpoint {

using TensorMap = std::map<std::string, at::Tensor>;

/// Which files of a checkpoint are verified and may be read.
enum class Scope {
  kWhole,     ///< all: to go on with a run
  kModelOnly, ///< all but those of the optimizer: to use the model
};

/// A verified checkpoint. It stays readable when its folder is removed meanwhile.
class Checkpoint {
 public:
  /// Opens a checkpoint folder and reads its files once to verify sizes and checksums. Throws
  /// `Error`, naming the file, when anything is missing or damaged.
  Checkpoint(const std::filesystem::path& folder, Scope scope);

  const std::filesystem::path& folder() const { return folder_; }
  std::int64_t step() const { return manifest_.step; }
  const Manifest& manifest() const { return manifest_; }
  const nlohmann::json& train_state() const { return train_state_; }
  const std::string& recipe() const { return recipe_; }

  /// Fills `targets`, which must have exactly the names and shapes of the checkpoint's parameters,
  /// on any device. Memory needed beside the targets: none for dense CPU targets of the same dtype,
  /// one tensor otherwise. Throws `Error`, naming the tensor, on a difference; all names, shapes
  /// and dtypes are compared before the first value is written.
  void read_parameters(const TensorMap& targets, DtypeRule rule = DtypeRule::kMustMatch) const;

  /// The same for ranks that want slices of the tensors, of some none.
  void read_parameter_slices(
      const parallel::TensorSlices& targets,
      DtypeRule rule = DtypeRule::kMustMatch) const;

  /// The same for the states of the optimizer. The checkpoint must have been opened whole.
  void read_optimizer_states(
      const parallel::TensorSlices& targets,
      DtypeRule rule = DtypeRule::kMustMatch) const;

 private:
  void open_tensor_files(Scope scope);
  std::string read_text_file(const char* name) const;
  void check_pieces(const TensorRecords& records) const;
  void read(const TensorRecords& records, const parallel::TensorSlices& targets, DtypeRule rule)
      const;
  void read_whole(const TensorRecord& record, const at::Tensor& target, DtypeRule rule) const;
  void read_slice(const TensorRecord& record, const parallel::TensorSlice& target) const;

  std::filesystem::path folder_;
  Manifest manifest_;
  nlohmann::json train_state_;
  std::string recipe_;
  std::map<std::string, SafetensorsFile> tensor_files_;
};

/// Whether a quick look (manifest, names and sizes of files, no checksums) finds nothing wrong.
bool looks_whole(const CheckpointEntry& entry);

/// The newest checkpoint of a run that is whole, none when the run has no checkpoint at all. Each
/// damaged one that is passed over is reported through `log` in one line. Throws `Error` when there
/// are checkpoints but none is whole.
std::optional<Checkpoint>
open_newest(const std::filesystem::path& run_folder, Scope scope, const Log& log);

/// Opens MODEL of the command line: a checkpoint folder, or a run folder for its newest whole
/// checkpoint. Throws `Error` that says what `path` is instead.
Checkpoint resolve_model(const std::filesystem::path& path, const Log& log);

} // namespace baton::checkpoint
