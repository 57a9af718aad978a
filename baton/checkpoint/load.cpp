// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/load.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "baton/base/error.h"
#include "baton/checkpoint/checked_file.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string read_all(const FileReader& file) {
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, text.data(), text.size());
  return text;
}

Manifest read_manifest(const fs::path& folder) {
  const FileReader file(folder / kManifestFile);
  try {
    return parse_manifest(read_all(file));
  } catch (const RunError&) {
    throw;
  } catch (const Error& error) {
    throw Error(file.path().string() + ": " + error.what());
  }
}

void check_size(const FileReader& file, const FileRecord& record) {
  if (file.size() != record.bytes) {
    throw Error(
        file.path().string() + ": has " + std::to_string(file.size()) +
        " bytes, the manifest says " + std::to_string(record.bytes));
  }
}

void check_content(const FileReader& file, const FileRecord& record) {
  check_size(file, record);
  if (file.crc32c() != record.crc32c) {
    throw Error(file.path().string() + ": is damaged: its checksum is not the manifest's");
  }
}

std::set<std::string> files_of(const TensorRecords& records) {
  std::set<std::string> files;
  for (const auto& [name, record] : records) {
    for (const Piece& piece : record.pieces) {
      files.insert(piece.file);
    }
  }
  return files;
}

// A difference of names, told by the first of each side.
void check_names(
    const TensorRecords& records,
    const parallel::TensorSlices& targets,
    const std::string& where) {
  for (const auto& [name, target] : targets) {
    if (records.count(name) == 0) {
      throw Error(where + ": holds no tensor " + in_quotes(name) + ", which is wanted");
    }
  }
  for (const auto& [name, record] : records) {
    if (targets.count(name) == 0) {
      throw Error(where + ": holds a tensor " + in_quotes(name) + ", which is not wanted");
    }
  }
}

} // namespace

Checkpoint::Checkpoint(const fs::path& folder, Scope scope)
    : folder_(folder), manifest_(read_manifest(folder)) {
  open_tensor_files(scope);
  recipe_ = read_text_file(kRecipeFile);
  try {
    train_state_ = parse_strict_json(read_text_file(kTrainStateFile));
  } catch (const RunError&) {
    throw;
  } catch (const Error& error) {
    throw Error((folder_ / kTrainStateFile).string() + ": " + error.what());
  }
}

void Checkpoint::open_tensor_files(Scope scope) {
  std::set<std::string> names = files_of(manifest_.parameters);
  if (scope == Scope::kWhole) {
    names.merge(files_of(manifest_.optimizer_states));
  }
  for (const std::string& name : names) {
    const FileRecord& record = manifest_.files.at(name);
    SafetensorsFile file(folder_ / name);
    check_content(file.file(), record);
    tensor_files_.emplace(name, std::move(file));
  }
  check_pieces(manifest_.parameters);
  if (scope == Scope::kWhole) {
    check_pieces(manifest_.optimizer_states);
  }
}

std::string Checkpoint::read_text_file(const char* name) const {
  const auto record = manifest_.files.find(name);
  if (record == manifest_.files.end()) {
    throw Error((folder_ / kManifestFile).string() + ": files[\"" + name + "\"] is missing");
  }
  const FileReader file(folder_ / name);
  check_content(file, record->second);
  return read_all(file);
}

void Checkpoint::check_pieces(const TensorRecords& records) const {
  for (const auto& [name, record] : records) {
    for (const Piece& piece : record.pieces) {
      const SafetensorsFile& file = tensor_files_.at(piece.file);
      const StoredTensor& stored = file.find(piece.key);
      if (stored.dtype != record.dtype || stored.shape != piece.shape) {
        throw Error(
            file.file().path().string() + ": tensor " + in_quotes(piece.key) +
            " has another dtype or shape than the manifest says");
      }
    }
  }
}

void Checkpoint::read_whole(const TensorRecord& record, const at::Tensor& target, DtypeRule rule)
    const {
  for (const Piece& piece : record.pieces) {
    at::Tensor block = target;
    for (std::size_t dim = 0; dim < piece.start.size(); ++dim) {
      block = block.narrow(static_cast<std::int64_t>(dim), piece.start[dim], piece.shape[dim]);
    }
    tensor_files_.at(piece.file).read_into(piece.key, block, rule);
  }
}

void Checkpoint::read_slice(const TensorRecord& record, const parallel::TensorSlice& target) const {
  for (const Piece& stored : record.pieces) {
    for (const parallel::TensorPiece& wanted : target.pieces) {
      at::Tensor to = wanted.values;
      at::Tensor from = tensor_files_.at(stored.file).view(stored.key);
      bool meet = true;
      for (std::size_t i = 0; meet && i < wanted.start.size(); ++i) {
        const auto dim = static_cast<std::int64_t>(i);
        const std::int64_t begin = std::max(stored.start[i], wanted.start[i]);
        const std::int64_t end =
            std::min(stored.start[i] + stored.shape[i], wanted.start[i] + to.size(dim));
        meet = begin < end;
        if (meet) {
          to = to.narrow(dim, begin - wanted.start[i], end - begin);
          from = from.narrow(dim, begin - stored.start[i], end - begin);
        }
      }
      if (meet) {
        to.copy_(from);
      }
    }
  }
}

void Checkpoint::read(
    const TensorRecords& records,
    const parallel::TensorSlices& targets,
    DtypeRule rule) const {
  check_names(records, targets, folder_.string());
  for (const auto& [name, target] : targets) {
    const TensorRecord& record = records.at(name);
    const std::string where = folder_.string() + ": tensor " + in_quotes(name);
    // The shape that counts is that of the tensor; this one has no values.
    const at::Tensor whole =
        at::empty({1}, target.dtype)
            .as_strided(target.shape, std::vector<std::int64_t>(target.shape.size()));
    check_target(where, record.dtype, record.shape, whole, rule);
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, target] : targets) {
    if (target.whole()) {
      read_whole(records.at(name), target.pieces.front().values, rule);
    } else {
      read_slice(records.at(name), target);
    }
  }
}

void Checkpoint::read_parameters(const TensorMap& targets, DtypeRule rule) const {
  read(manifest_.parameters, parallel::slices_of(targets), rule);
}

void Checkpoint::read_parameter_slices(const parallel::TensorSlices& targets, DtypeRule rule)
    const {
  read(manifest_.parameters, targets, rule);
}

void Checkpoint::read_optimizer_states(const parallel::TensorSlices& targets, DtypeRule rule)
    const {
  for (const std::string& file : files_of(manifest_.optimizer_states)) {
    TORCH_CHECK(
        tensor_files_.count(file) > 0, "the checkpoint was opened without its optimizer's states");
  }
  read(manifest_.optimizer_states, targets, rule);
}

bool looks_whole(const CheckpointEntry& entry) {
  try {
    const Manifest manifest = read_manifest(entry.folder);
    for (const auto& [name, record] : manifest.files) {
      check_size(FileReader(entry.folder / name), record);
    }
    return manifest.step == entry.step;
  } catch (const Error&) {
    return false;
  }
}

std::optional<Checkpoint> open_newest(const fs::path& run_folder, Scope scope, const Log& log) {
  std::set<std::int64_t> damaged;
  // Listed anew after each failure: a running writer may have removed the one that was opened, and
  // then it has written a newer one.
  for (;;) {
    bool tried_all = true;
    for (const CheckpointEntry& entry : list_checkpoints(run_folder)) {
      if (damaged.count(entry.step) > 0) {
        continue;
      }
      tried_all = false;
      try {
        Checkpoint checkpoint(entry.folder, scope);
        if (checkpoint.step() != entry.step) {
          throw Error(
              (entry.folder / kManifestFile).string() + ": is of step " +
              std::to_string(checkpoint.step()) + ", not of its folder's");
        }
        return checkpoint;
      } catch (const Error& error) {
        damaged.insert(entry.step);
        if (log) {
          log("checkpoint " + checkpoint_name(entry.step) + " is passed over: " + error.what());
        }
      }
      break;
    }
    if (tried_all && damaged.empty()) {
      return std::nullopt;
    }
    if (tried_all) {
      throw Error(
          checkpoints_folder(run_folder).string() + ": none of its " +
          std::to_string(damaged.size()) + " checkpoints is whole");
    }
  }
}

Checkpoint resolve_model(const fs::path& path, const Log& log) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw Error(path.string() + ": no such folder");
  }
  if (!fs::is_directory(status)) {
    throw Error(path.string() + ": is a file; a model is a run folder or a checkpoint folder");
  }
  if (fs::exists(path / kManifestFile, error)) {
    return Checkpoint(path, Scope::kModelOnly);
  }
  if (fs::is_directory(checkpoints_folder(path), error)) {
    std::optional<Checkpoint> newest = open_newest(path, Scope::kModelOnly, log);
    if (!newest) {
      throw Error(path.string() + ": this run has no checkpoint yet");
    }
    return std::move(*newest);
  }
  if (fs::exists(path / "config.json", error)) {
    throw Error(
        path.string() + ": looks like a Hugging Face folder; only run folders and checkpoint " +
        "folders can be read");
  }
  throw Error(
      path.string() + ": is neither a run folder (checkpoints/step_...) nor a checkpoint folder (" +
      std::string(kManifestFile) + ")");
}

} // namespace baton::checkpoint
