// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/run_folder.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

#include "baton/base/error.h"

namespace baton::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step_";
constexpr std::size_t kMinDigits = 8;

std::optional<std::int64_t> step_from_name(const std::string& name) {
  if (name.compare(0, kStepPrefix.size(), kStepPrefix) != 0) {
    return std::nullopt;
  }
  std::int64_t step = 0;
  const char* begin = name.data() + kStepPrefix.size();
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(begin, end, step);
  // One name a step: "step_7" and "step_00000007x" are not ours.
  if (parsed.ec != std::errc() || parsed.ptr != end || step < 0 || checkpoint_name(step) != name) {
    return std::nullopt;
  }
  return step;
}

} // namespace

fs::path checkpoints_folder(const fs::path& run_folder) {
  return run_folder / "checkpoints";
}

std::string checkpoint_name(std::int64_t step) {
  std::string digits = std::to_string(step);
  digits.insert(0, kMinDigits - std::min(digits.size(), kMinDigits), '0');
  return std::string(kStepPrefix) + digits;
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& run_folder) {
  const fs::path folder = checkpoints_folder(run_folder);
  std::vector<CheckpointEntry> entries;
  std::error_code error;
  fs::directory_iterator files(folder, error);
  if (error == std::errc::no_such_file_or_directory) {
    return entries;
  }
  for (; !error && files != fs::directory_iterator(); files.increment(error)) {
    const std::optional<std::int64_t> step = step_from_name(files->path().filename().string());
    std::error_code ignored;
    if (step && files->is_directory(ignored)) {
      entries.push_back({*step, files->path()});
    }
  }
  if (error) {
    const std::string message = folder.string() + ": cannot read the folder: " + error.message();
    if (error == std::errc::io_error) {
      throw RunError(message);
    }
    throw Error(message); // a file in the way, or no permission
  }
  std::sort(entries.begin(), entries.end(), [](const CheckpointEntry& a, const CheckpointEntry& b) {
    return a.step > b.step;
  });
  return entries;
}

} // namespace baton::checkpoint
