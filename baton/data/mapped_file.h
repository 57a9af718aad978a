// SPDX-License-Identifier: Apache-2.0
// A file's bytes in memory, mapped where the system can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace baton {

/// Read-only bytes of a file. A regular file is mapped, so that a corpus larger than memory can be
/// walked; a pipe or device ("/dev/stdin") is read to its end. Moving keeps the bytes in place.
class MappedFile {
 public:
  /// Throws Error with the path and the system's reason.
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

  /// Tells the system that the file is read from front to back.
  void expect_sequential_reads() const;

 private:
  void swap(MappedFile& other) noexcept;

  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool mapped_ = false; // otherwise `data_` comes from malloc
};

} // namespace baton
