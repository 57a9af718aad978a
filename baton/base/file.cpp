// SPDX-License-Identifier: Apache-2.0
#include "baton/base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"

namespace baton {
namespace {

// One read or write call; Linux moves at most 2 GiB in one anyway.
constexpr std::size_t kBlockBytes = std::size_t{1} << 26;

[[noreturn]] void fail(const std::string& path, const std::string& action, int reason) {
  const std::string message =
      path + ": cannot " + action + ": " + std::generic_category().message(reason);
  if (reason == ENOSPC || reason == EDQUOT || reason == EIO || reason == EFBIG ||
      reason == ENOMEM || reason == EMFILE || reason == ENFILE) {
    throw RunError(message);
  }
  throw Error(message);
}

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// Closes on the way out, also when an exception is thrown.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, const std::string& action)
      : number_(open(path.c_str(), flags | O_CLOEXEC)) {
    if (number_ < 0) {
      fail(path, action, errno);
    }
  }
  ~Descriptor() { close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number() const { return number_; }

 private:
  int number_;
};

} // namespace

std::string read_file(const std::string& path) {
  const Descriptor file(path, O_RDONLY, "open");
  struct stat status {};
  if (fstat(file.number(), &status) != 0) {
    fail(path, "read", errno);
  }
  if (S_ISDIR(status.st_mode)) {
    fail(path, "read", EISDIR);
  }
  // Pipes and /proc state no size: read until the end, whatever it says.
  std::string bytes(static_cast<std::size_t>(std::max<off_t>(status.st_size, 0)) + 1, '\0');
  std::size_t filled = 0;
  for (;;) {
    if (filled == bytes.size()) {
      bytes.resize(filled + std::max<std::size_t>(kBlockBytes / 1024, filled / 2));
    }
    const ssize_t count =
        read(file.number(), bytes.data() + filled, std::min(bytes.size() - filled, kBlockBytes));
    if (count < 0 && errno != EINTR) {
      fail(path, "read", errno);
    }
    if (count == 0) {
      bytes.resize(filled);
      return bytes;
    }
    filled += static_cast<std::size_t>(std::max<ssize_t>(count, 0));
  }
}

FileWriter::FileWriter(const std::string& path)
    : FileWriter(path, path + ".tmp." + std::to_string(getpid())) {}

FileWriter::FileWriter(std::string path, const std::string& aside) : path_(std::move(path)) {
  struct stat status {};
  const bool exists = stat(path_.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) {
    fail(path_, "write", EISDIR);
  }
  // A device or pipe is written to; a file beside it must not take its place.
  const bool replaces = !exists || S_ISREG(status.st_mode);
  aside_ = replaces ? aside : "";
  descriptor_ = replaces ? open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)
                         : open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    fail(path_, "write", errno);
  }
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) {
    close(descriptor_);
    if (!aside_.empty()) {
      unlink(aside_.c_str());
    }
  }
}

void FileWriter::write(const void* data, std::size_t size) {
  const char* rest = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::write(descriptor_, rest, std::min(size, kBlockBytes));
    if (count < 0) {
      if (errno != EINTR) {
        fail(path_, "write", errno);
      }
      continue;
    }
    rest += count;
    size -= static_cast<std::size_t>(count);
  }
}

void FileWriter::sync() {
  // A device or pipe may know no syncing.
  if (!aside_.empty() && fsync(descriptor_) != 0) {
    fail(path_, "sync", errno);
  }
}

void FileWriter::commit() {
  if (aside_.empty()) {
    if (close(std::exchange(descriptor_, -1)) != 0) {
      fail(path_, "write", errno);
    }
    return;
  }
  sync();
  if (std::rename(aside_.c_str(), path_.c_str()) != 0) {
    fail(path_, "write", errno);
  }
  if (close(std::exchange(descriptor_, -1)) != 0) {
    fail(path_, "write", errno);
  }
  sync_folder(parent_of(path_));
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  FileWriter file(path);
  file.write(bytes);
  file.commit();
}

void make_folders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    fail(path, "make this folder", error.value());
  }
}

void sync_folder(const std::string& path) {
  const Descriptor folder(path, O_RDONLY | O_DIRECTORY, "sync this folder");
  // Some network file systems have no sync for folders; they answer EINVAL.
  if (fsync(folder.number()) != 0 && errno != EINVAL) {
    fail(path, "sync this folder", errno);
  }
}

void rename_and_sync(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    fail(from, "rename to " + to, errno);
  }
  sync_folder(parent_of(to));
}

} // namespace baton
