// SPDX-License-Identifier: Apache-2.0
// A file's bytes, mapped into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace baton {

/// Read-only bytes of a regular file, mapped, so that a dataset larger than memory can be read at
/// any place. Moving keeps the bytes in place.
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

  /// Gives the memory of what was read so far back; the bytes stay readable.
  void release() const;

 private:
  void swap(MappedFile& other) noexcept;

  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace baton
