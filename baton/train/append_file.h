// SPDX-License-Identifier: Apache-2.0
// A file that grows by whole records.
#pragma once

#include <filesystem>
#include <string_view>

namespace baton::train {

/// Appends each record by one write, so that a killed run leaves at most one torn record, the last.
class AppendFile {
 public:
  /// Opens or creates the file. Throws `RunError` where it cannot.
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Throws `RunError` when the disk is full or fails.
  void append(std::string_view record);

  /// Makes the records so far survive a crash of the machine.
  void sync();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

} // namespace baton::train
