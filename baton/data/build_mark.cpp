// SPDX-License-Identifier: Apache-2.0
#include "baton/data/build_mark.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"

namespace baton {
namespace {

std::string mark_path(const std::string& prefix) {
  return prefix + ".building";
}

} // namespace

bool BuildMark::exists(const std::string& prefix) {
  return std::filesystem::exists(mark_path(prefix));
}

BuildMark::BuildMark(const std::string& prefix) : path_(mark_path(prefix)) {
  while (!lock()) {
  }
}

// False when the build before removed the file between opening and locking: then it starts again.
bool BuildMark::lock() {
  was_left_ = false;
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0 && errno == EEXIST) {
    was_left_ = true;
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor_ < 0 && errno == ENOENT) {
      return false;
    }
  }
  if (descriptor_ < 0) {
    throw Error(path_ + ": cannot write: " + std::strerror(errno));
  }
  // A file system without locks answers otherwise; then nothing keeps two builds apart.
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    throw Error(path_ + ": another process is building this dataset");
  }
  struct stat opened {};
  struct stat named {};
  const bool current = ::fstat(descriptor_, &opened) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                       opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
  if (!current) {
    ::close(descriptor_);
  }
  return current;
}

BuildMark::~BuildMark() {
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

} // namespace baton
