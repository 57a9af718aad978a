// SPDX-License-Identifier: Apache-2.0
#include "baton/data/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"

namespace baton {
namespace {

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(path + ": " + what + ": " + std::strerror(errno));
}

// Closes on every way out of the constructor; a mapping outlives its descriptor.
struct Descriptor {
  int value;
  ~Descriptor() { ::close(value); }
};

} // namespace

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  const Descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) {
    fail(path_, "cannot open");
  }
  struct stat status {};
  if (::fstat(file.value, &status) != 0) {
    fail(path_, "cannot open");
  }
  if (S_ISDIR(status.st_mode)) {
    throw Error(path_ + ": is a folder, not a file");
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(path_ + ": is no regular file");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) {
    return;
  }
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
  if (address == MAP_FAILED) {
    fail(path_, "cannot map");
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (size_ > 0) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept {
  swap(other);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  MappedFile taken(std::move(other));
  swap(taken);
  return *this;
}

void MappedFile::swap(MappedFile& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

void MappedFile::release() const {
  if (size_ > 0) {
    // Advice only: a system that cannot follow it reads correctly all the same.
    ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
  }
}

} // namespace baton
