// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/checked_file.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/crc32c.h"
#include "baton/base/error.h"

namespace baton::checkpoint {

namespace testing {
// Tests count, fail or kill here: called with the file's name before each block is written.
void (*before_write)(const std::string& file) = nullptr;
} // namespace testing

namespace {

// Small enough that a block is still in the processor's cache after its checksum was taken.
constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

std::string reason(int number) {
  return std::generic_category().message(number);
}

} // namespace

CheckedFileWriter::CheckedFileWriter(const std::filesystem::path& path)
    : path_(path), file_(path.string()) {}

void CheckedFileWriter::write(const void* data, std::size_t size) {
  const char* rest = static_cast<const char*>(data);
  while (size > 0) {
    const std::size_t count = std::min(size, kBlockBytes);
    if (testing::before_write != nullptr) {
      testing::before_write(path_.filename().string());
    }
    record_.crc32c = extend_crc32c(record_.crc32c, rest, count);
    record_.bytes += count;
    file_.write(rest, count);
    rest += count;
    size -= count;
  }
}

FileRecord CheckedFileWriter::commit() {
  file_.commit();
  return record_;
}

FileReader::FileReader(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw Error(path_.string() + ": cannot open: " + reason(errno));
  }
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor_);
    throw Error(path_.string() + ": is not a regular file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

FileReader::~FileReader() {
  close(descriptor_);
}

void FileReader::read_at(std::uint64_t offset, void* data, std::size_t size) const {
  char* rest = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t count = pread(descriptor_, rest, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      throw RunError(path_.string() + ": cannot read: " + reason(errno));
    }
    if (count == 0) {
      throw Error(
          path_.string() + ": ends at byte " + std::to_string(offset) + ", " +
          std::to_string(size) + " bytes early");
    }
    rest += count;
    offset += static_cast<std::uint64_t>(count);
    size -= static_cast<std::size_t>(count);
  }
}

std::uint32_t FileReader::crc32c() const {
  std::vector<char> block(kBlockBytes);
  std::uint32_t crc = 0;
  for (std::uint64_t offset = 0; offset < size_; offset += kBlockBytes) {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(kBlockBytes, size_ - offset));
    read_at(offset, block.data(), count);
    crc = extend_crc32c(crc, block.data(), count);
  }
  return crc;
}

} // namespace baton::checkpoint
