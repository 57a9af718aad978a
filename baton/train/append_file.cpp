// SPDX-License-Identifier: Apache-2.0
#include "baton/train/append_file.h"

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "baton/base/error.h"

namespace baton::train {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* action, int reason) {
  throw RunError(
      path.string() + ": cannot " + action + ": " + std::generic_category().message(reason));
}

} // namespace

AppendFile::AppendFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    fail(path_, "open", errno);
  }
}

AppendFile::~AppendFile() {
  close(descriptor_);
}

void AppendFile::append(std::string_view record) {
  ssize_t count = -1;
  do {
    count = write(descriptor_, record.data(), record.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    fail(path_, "write", errno);
  }
  // A write to a file falls short only when no more would fit.
  if (static_cast<std::size_t>(count) < record.size()) {
    fail(path_, "write", ENOSPC);
  }
}

void AppendFile::sync() {
  // A pipe or a device in place of the file has nothing to sync.
  if (fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) {
    fail(path_, "sync", errno);
  }
}

} // namespace baton::train
