// SPDX-License-Identifier: Apache-2.0
// Files of a checkpoint: written with their size and checksum counted, read at any offset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "baton/base/file.h"

namespace baton::checkpoint {

/// What a manifest remembers of a file.
struct FileRecord {
  std::uint64_t bytes = 0;
  std::uint32_t crc32c = 0;

  bool operator==(const FileRecord&) const = default;
};

/// A new file that counts its bytes and their CRC-32C. Whole or not there at all, as `FileWriter`.
class CheckedFileWriter {
 public:
  explicit CheckedFileWriter(const std::filesystem::path& path);

  void write(const void* data, std::size_t size);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

  /// Syncs the file and gives it its name. Nothing may be written afterwards.
  FileRecord commit();

 private:
  std::filesystem::path path_;
  FileWriter file_;
  FileRecord record_;
};

/// An open file. It stays readable when its name is taken away.
class FileReader {
 public:
  /// Throws `Error` when there is no such file or it may not be read.
  explicit FileReader(std::filesystem::path path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return size_; } ///< bytes, when it was opened
  int descriptor() const { return descriptor_; }

  /// Fills `size` bytes at `data` with those from byte `offset` of the file. Throws `Error` when
  /// the file ends before, `RunError` when the device fails.
  void read_at(std::uint64_t offset, void* data, std::size_t size) const;

  /// Reads the whole file for its CRC-32C.
  std::uint32_t crc32c() const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

} // namespace baton::checkpoint
