// SPDX-License-Identifier: Apache-2.0
#include "baton/data/mapped_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
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

struct OwnedBytes {
  std::byte* data = nullptr;
  std::size_t size = 0;
};

OwnedBytes read_to_end(int descriptor, const std::string& path) {
  OwnedBytes bytes;
  std::size_t capacity = std::size_t{1} << 20;
  for (;;) {
    void* grown = std::realloc(bytes.data, capacity);
    if (grown == nullptr) {
      std::free(bytes.data);
      throw RunError(path + ": no memory for " + std::to_string(capacity) + " bytes");
    }
    bytes.data = static_cast<std::byte*>(grown);
    while (bytes.size < capacity) {
      const ssize_t got = ::read(descriptor, bytes.data + bytes.size, capacity - bytes.size);
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        std::free(bytes.data);
        fail(path, "cannot read");
      }
      if (got == 0) {
        return bytes;
      }
      bytes.size += static_cast<std::size_t>(got);
    }
    capacity *= 2;
  }
}

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
    const OwnedBytes bytes = read_to_end(file.value, path_);
    data_ = bytes.data;
    size_ = bytes.size;
    return;
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
  mapped_ = true;
}

MappedFile::~MappedFile() {
  if (mapped_) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  } else {
    std::free(const_cast<std::byte*>(data_));
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
  std::swap(mapped_, other.mapped_);
}

void MappedFile::expect_sequential_reads() const {
  if (mapped_) {
    // Advice only: a system that cannot follow it reads correctly all the same.
    ::madvise(const_cast<std::byte*>(data_), size_, MADV_SEQUENTIAL);
  }
}

} // namespace baton
