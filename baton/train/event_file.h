// SPDX-License-Identifier: Apache-2.0
// TensorBoard event files with scalars, written without TensorBoard.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "baton/train/append_file.h"

namespace baton::train {

/// Appends events to a new file `events.out.tfevents.TIME.HOST.PID` of a folder.
///
/// The file is a sequence of TFRecords (length, masked CRC-32C of the length, bytes, masked CRC-32C
/// of the bytes; all little-endian), each an `Event` of tensorflow/core/util/event.proto.
class EventFile {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>; ///< tag and value

  /// Creates the folder and the file. Values of earlier files from `first_step` on count as
  /// abandoned: TensorBoard drops them, as a resumed run writes them again. `wall_time` is in
  /// seconds since 1970. Throws `RunError` where the file cannot be made.
  EventFile(const std::filesystem::path& folder, std::int64_t first_step, double wall_time);

  /// Throws `RunError` when the disk is full or fails.
  void append(std::int64_t step, double wall_time, const Scalars& scalars);

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void append_record(std::string_view event);

  AppendFile file_;
};

} // namespace baton::train
