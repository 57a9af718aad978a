// SPDX-License-Identifier: Apache-2.0
// Bytes that come from front to back: of a file as it lies, or of what it holds compressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace baton {

/// A stream of bytes that is read once. Memory does not depend on its length.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  /// Fills up to `size` bytes, which is not 0, and returns how many; 0 at the end only. Throws
  /// Error that names the file.
  virtual std::size_t read(char* out, std::size_t size) = 0;

  /// Bytes of the file itself that were taken so far.
  virtual std::int64_t consumed() const = 0;
};

/// A file, pipe or device.
class FileSource final : public ByteSource {
 public:
  /// Throws Error with the path and the system's reason.
  explicit FileSource(std::string path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  std::size_t read(char* out, std::size_t size) override;
  std::int64_t consumed() const override { return consumed_; }

  /// The first bytes, fewer than `size` only where the file ends before; read() gives them again.
  std::string_view peek(std::size_t size);

 private:
  std::size_t read_descriptor(char* out, std::size_t size);

  std::string path_;
  int descriptor_ = -1;
  std::string ahead_; // peeked at, not yet read
  std::int64_t consumed_ = 0;
};

/// The text of a file: what gzip (several members) or Zstandard (several frames) made of it, known
/// by its first bytes, or the file as it lies. Throws Error when a file whose name ends in .gz or
/// .zst holds something else.
std::unique_ptr<ByteSource> open_text(const std::string& path);

/// `path` without the suffix of a compressed file.
std::string_view without_compression_suffix(std::string_view path);

} // namespace baton
