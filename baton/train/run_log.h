// SPDX-License-Identifier: Apache-2.0
// What a run leaves to look at: metrics.jsonl, TensorBoard events, loss.svg.
#pragma once

#include <cstdint>
#include <filesystem>

#include "baton/train/event_file.h"
#include "baton/train/metrics.h"

namespace baton::train {

class RunLog {
 public:
  /// Opens the files of a run that has done `step` updates; lines of later updates, which a resumed
  /// run does again, are cut off. Throws `RunError` when the folder cannot be written to.
  RunLog(const std::filesystem::path& run_folder, std::int64_t step);

  void append(const StepMetrics& metrics);

  /// Makes what was appended survive a crash of the machine.
  void sync() { metrics_.sync(); }

  /// Draws loss.svg of all that metrics.jsonl holds.
  void draw_curve() const;

 private:
  std::filesystem::path folder_;
  MetricsFile metrics_;
  EventFile events_;
};

} // namespace baton::train
