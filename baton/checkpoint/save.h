// SPDX-License-Identifier: Apache-2.0
// Writing a checkpoint so that a whole one exists at every moment, and removing old ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "baton/checkpoint/run_folder.h"
#include "baton/parallel/group.h"
#include "baton/parallel/tensor_slice.h"

namespace baton::checkpoint {

/// All that a run needs to go on. Of several ranks each gives its share of the tensors, so that
/// together they have every value once; all else counts on rank 0.
struct CheckpointContents {
  std::int64_t step = 0;
  std::string program;                     ///< version of the program
  parallel::TensorSlices parameters;       ///< by parameter name
  parallel::TensorSlices optimizer_states; ///< by a name of the optimizer's choice
  nlohmann::json train_state;              ///< whatever the trainer wants back
  std::string recipe;                      ///< TOML text with every resolved value
  /// Bytes by file name: copied into the subfolder "tokenizer", where find_tokenizer() looks.
  std::map<std::string, std::string> tokenizer_files;
};

struct SaveOptions {
  std::filesystem::path run_folder;
  int keep_last = 0;              ///< whole checkpoints to keep, this one included; 0 keeps all
  Log log{};                      ///< told what could not be tidied up; may be empty
  parallel::Group ranks{};        ///< all that save together, into a folder that they share
  c10::Device device = c10::kCPU; ///< on which `ranks` talk
};

/// Writes RUN/checkpoints/step_NNNNNNNN and returns its path. It is written into a hidden folder
/// beside, synced, and renamed, so that a reader finds the whole checkpoint or none; one of the
/// same step is replaced. Then what dead writers left is removed, and checkpoints before the
/// `keep_last` newest whole ones; those of later steps stay. Throws `RunError` when the disk is
/// full or fails, or when another process is saving into this run; the checkpoints that were there
/// stay whole.
///
/// Several ranks write files of their own at once. Rank 0 renames the folder when all have synced
/// theirs and what they wrote covers every tensor; where one fails, all throw and none is made.
std::filesystem::path save_checkpoint(
    const CheckpointContents& contents,
    const SaveOptions& options);

} // namespace baton::checkpoint
