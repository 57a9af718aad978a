// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: what a run measured, one line of JSON a step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "baton/train/append_file.h"

namespace baton::train {

struct StepMetrics {
  std::int64_t step = 0;              ///< counted from 1: the number of updates done
  double loss = 0;                    ///< nats a token, mean over the step's tokens
  double lr = 0;                      ///< learning rate of the step's update
  double grad_norm = 0;               ///< global norm before clipping
  double tokens_per_second = 0;       ///< over the step
  std::optional<double> valid_loss{}; ///< nats a token on held-out text, where it was evaluated
};

/// One line without its line break. Numbers are the shortest that read back to the same double;
/// what is not finite is `null`.
std::string to_json_line(const StepMetrics& metrics);

/// Reads such a line; nothing when it is torn or something else. `null` reads as NaN.
std::optional<StepMetrics> parse_json_line(std::string_view line);

/// All whole lines of a file in its order; none where there is no file.
std::vector<StepMetrics> read_metrics(const std::filesystem::path& path);

/// For a resume at `step`: keeps the lines of steps up to `step`. Lines of later steps and torn
/// ones go. The file is replaced whole, and left alone when nothing changes.
void truncate_to_step(const std::filesystem::path& path, std::int64_t step);

/// Adds lines to a file.
class MetricsFile {
 public:
  /// Opens or creates the file. Throws `RunError` where it cannot.
  explicit MetricsFile(const std::filesystem::path& path) : file_(path) {}

  /// Throws `RunError` when the disk is full or fails.
  void append(const StepMetrics& metrics) { file_.append(to_json_line(metrics) + "\n"); }

  /// Makes the lines so far survive a crash of the machine: before a checkpoint counts on them.
  void sync() { file_.sync(); }

 private:
  AppendFile file_;
};

} // namespace baton::train
