// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache_lock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/log.h"

namespace baton::jit {

namespace testing {
// Tests set the error of a file system without locks; 0 asks the system.
int lock_error = 0;
} // namespace testing

namespace {

bool try_lock(int descriptor, int mode) {
  if (testing::lock_error != 0) {
    errno = testing::lock_error;
    return false;
  }
  int result = 0;
  do {
    result = flock(descriptor, mode);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

bool is_at(int descriptor, const std::string& path) {
  struct stat mine {};
  struct stat there {};
  return fstat(descriptor, &mine) == 0 && stat(path.c_str(), &there) == 0 &&
         mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

// What the holder wrote about itself.
std::string holder_of(int descriptor) {
  std::array<char, 256> text{};
  const ssize_t size = pread(descriptor, text.data(), text.size(), 0);
  return size > 0 ? std::string(text.data(), static_cast<std::size_t>(size)) : "another process";
}

// Logs once if it lives for long. The waiting thread itself sleeps in flock, which takes no time
// limit, so a second one watches the clock.
class WaitNotice {
 public:
  WaitNotice(int descriptor, const std::string& purpose, std::chrono::milliseconds after) {
    try {
      thread_ = std::thread([this, descriptor, purpose, after] {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!changed_.wait_for(lock, after, [this] { return over_; })) {
          log_info(purpose + ": waiting for " + holder_of(descriptor));
        }
      });
    } catch (const std::system_error&) {
      // A process at its limit of threads waits without a notice.
    }
  }
  ~WaitNotice() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) {
      thread_.join();
    }
  }
  WaitNotice(const WaitNotice&) = delete;
  WaitNotice& operator=(const WaitNotice&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

} // namespace

std::string process_name() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return std::string(host.data()) + " process " + std::to_string(getpid());
}

KeyLock::KeyLock(
    std::string path,
    const std::string& purpose,
    std::chrono::milliseconds notice_after)
    : path_(std::move(path)), descriptor_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) {
    return;
  }
  bool locked = try_lock(descriptor_, LOCK_EX | LOCK_NB);
  if (!locked && errno == EWOULDBLOCK) {
    const WaitNotice notice(descriptor_, purpose, notice_after);
    locked = try_lock(descriptor_, LOCK_EX);
  }
  if (!locked) {
    close(std::exchange(descriptor_, -1));
    return;
  }
  write_holder();
}

KeyLock::~KeyLock() {
  if (held()) {
    if (is_current()) {
      unlink(path_.c_str());
    }
    close(descriptor_);
  }
}

bool KeyLock::is_current() const {
  return is_at(descriptor_, path_);
}

// Only for messages: on a full disk the file stays empty.
void KeyLock::write_holder() const {
  const std::string text = process_name();
  if (ftruncate(descriptor_, 0) != 0 || pwrite(descriptor_, text.data(), text.size(), 0) < 0) {
    log_debug(path_ + ": cannot say who holds this lock");
  }
}

void remove_idle_locks(const std::string& folder, std::chrono::seconds age) {
  std::error_code error;
  for (std::filesystem::directory_iterator file(folder, error), end; !error && file != end;
       file.increment(error)) {
    const std::string path = file->path().string();
    struct stat status {};
    if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
      continue;
    }
    // A file system's clock may be ahead of ours: what it has just written is not younger than new.
    if (std::max<std::int64_t>(std::time(nullptr) - status.st_mtime, 0) < age.count()) {
      continue;
    }
    const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) {
      continue;
    }
    if (try_lock(descriptor, LOCK_EX | LOCK_NB) && is_at(descriptor, path)) {
      unlink(path.c_str());
    }
    close(descriptor);
  }
}

} // namespace baton::jit
