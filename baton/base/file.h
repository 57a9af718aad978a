// SPDX-License-Identifier: Apache-2.0
// Files that are written whole or not at all, with errors that name the path and the reason.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace baton {

/// The bytes of a file. Throws Error with the path and the system's reason.
std::string read_file(const std::string& path);

/// Writes a file aside, syncs it and moves it to `path` in one step, so that `path` holds the old
/// bytes or the new ones whatever happens in between. The destructor of a writer that was not
/// committed removes what it wrote. A device or pipe is written to directly. Throws RunError when
/// the disk is full or fails, Error when the path cannot be written to.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  /// Writes to `aside` until the commit, for a folder whose readers must see finished files only.
  /// Both are on one file system, and no other writer uses `aside`.
  FileWriter(std::string path, const std::string& aside);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, std::size_t size);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

  /// Makes what was written survive a crash, still aside. A full disk shows itself here at the
  /// latest.
  void sync();

  /// Syncs, renames and syncs the folder. Nothing may be written afterwards.
  void commit();

 private:
  std::string path_;
  std::string aside_; // empty for a device or pipe
  int descriptor_ = -1;
};

/// Replaces `path` by `bytes`, whole or not at all.
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Makes a folder and its parents where they are missing.
void make_folders(const std::string& path);

/// Makes earlier creations, renames and removals in a folder survive a crash.
void sync_folder(const std::string& path);

/// Renames a file or folder and syncs the folder that holds the new name. An existing file at `to`
/// is replaced.
void rename_and_sync(const std::string& from, const std::string& to);

} // namespace baton
