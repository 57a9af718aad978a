// SPDX-License-Identifier: Apache-2.0
#include "baton/data/byte_source.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/data/gzip_source.h"
#include "baton/data/zstd_source.h"

namespace baton {
namespace {

constexpr std::string_view kGzipSuffix = ".gz";
constexpr std::string_view kZstdSuffix = ".zst";

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(path + ": " + what + ": " + std::strerror(errno));
}

} // namespace

FileSource::FileSource(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    fail(path_, "cannot open");
  }
  struct stat status {};
  if (::fstat(descriptor_, &status) == 0 && S_ISDIR(status.st_mode)) {
    ::close(descriptor_);
    throw Error(path_ + ": is a folder, not a file");
  }
  // Advice only: a pipe has no pages to read ahead.
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
}

FileSource::~FileSource() {
  ::close(descriptor_);
}

std::size_t FileSource::read_descriptor(char* out, std::size_t size) {
  for (;;) {
    const ssize_t got = ::read(descriptor_, out, size);
    if (got >= 0) {
      return static_cast<std::size_t>(got);
    }
    if (errno != EINTR) {
      fail(path_, "cannot read");
    }
  }
}

std::size_t FileSource::read(char* out, std::size_t size) {
  std::size_t got = std::min(size, ahead_.size());
  if (got > 0) {
    std::copy_n(ahead_.data(), got, out);
    ahead_.erase(0, got);
  } else {
    got = read_descriptor(out, size);
  }
  consumed_ += static_cast<std::int64_t>(got);
  return got;
}

std::string_view FileSource::peek(std::size_t size) {
  while (ahead_.size() < size) {
    const std::size_t before = ahead_.size();
    ahead_.resize(size);
    const std::size_t got = read_descriptor(ahead_.data() + before, size - before);
    ahead_.resize(before + got);
    if (got == 0) {
      break;
    }
  }
  return std::string_view(ahead_).substr(0, size);
}

std::unique_ptr<ByteSource> open_text(const std::string& path) {
  auto file = std::make_unique<FileSource>(path);
  const std::string_view head = file->peek(kMagicBytes);
  const auto expect = [&](std::string_view suffix, const char* what) {
    if (path.ends_with(suffix) && !head.empty()) {
      throw Error(path + ": does not begin as " + what + " does");
    }
  };
  if (begins_as_gzip(head)) {
    return std::make_unique<GzipSource>(std::move(file), path);
  }
  if (begins_as_zstd(head)) {
    return std::make_unique<ZstdSource>(std::move(file), path);
  }
  expect(kGzipSuffix, "gzip data");
  expect(kZstdSuffix, "Zstandard data");
  return file;
}

std::string_view without_compression_suffix(std::string_view path) {
  for (const std::string_view suffix : {kGzipSuffix, kZstdSuffix}) {
    if (path.ends_with(suffix)) {
      return path.substr(0, path.size() - suffix.size());
    }
  }
  return path;
}

} // namespace baton
