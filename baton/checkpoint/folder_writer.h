// SPDX-License-Identifier: Apache-2.0
// A new folder that appears with all its files or not at all.
#pragma once

#include <filesystem>

namespace baton::checkpoint {

/// Makes a hidden folder beside `path`, to be filled; commit() gives it its name. The destructor of
/// a writer that was not committed removes it.
class FolderWriter {
 public:
  /// Throws `Error` where `path` is there already, unless it is an empty folder.
  explicit FolderWriter(const std::filesystem::path& path);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  /// Where the files go until the commit.
  const std::filesystem::path& aside() const { return aside_; }

  /// Syncs and renames.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path aside_;
};

} // namespace baton::checkpoint
