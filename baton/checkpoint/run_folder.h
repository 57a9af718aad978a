// SPDX-License-Identifier: Apache-2.0
// Where the checkpoints of a run lie, and what their folders and files are called.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace baton::checkpoint {

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kTrainStateFile = "train_state.json";
inline constexpr const char* kRecipeFile = "recipe.toml";

/// Receives messages of one line each.
using Log = std::function<void(const std::string&)>;

/// RUN/checkpoints
std::filesystem::path checkpoints_folder(const std::filesystem::path& run_folder);

/// "step_00000120"
std::string checkpoint_name(std::int64_t step);

/// A folder with the name of a checkpoint; what is in it may be damaged.
struct CheckpointEntry {
  std::int64_t step = 0;
  std::filesystem::path folder;
};

/// The checkpoints of a run by falling step; none where there is no such folder. Throws `RunError`
/// when the folder cannot be read.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& run_folder);

} // namespace baton::checkpoint
