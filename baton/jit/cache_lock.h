// SPDX-License-Identifier: Apache-2.0
// The lock under which one process compiles a kernel while others wait for it.
#pragma once

#include <chrono>
#include <string>

namespace baton::jit {

/// "host process 123": this process, for messages to others.
std::string process_name();

/// A lock by flock(2) on a file of its own. flock belongs to the open file, so it keeps threads
/// apart as well as processes, the system drops it when its holder dies, waiters queue in the
/// kernel, and Linux turns it into a lock at the server on NFS. (A POSIX fcntl lock belongs to the
/// process: it lets two threads in, and goes when any descriptor of the file is closed.)
class KeyLock {
 public:
  /// Opens or creates the file and waits for the lock. After `notice_after` in the queue one line
  /// in the log says that `purpose` waits, and for whom.
  KeyLock(std::string path, const std::string& purpose, std::chrono::milliseconds notice_after);
  /// Removes the file if it is still the one at the path, and lets the next one in.
  ~KeyLock();
  KeyLock(const KeyLock&) = delete;
  KeyLock& operator=(const KeyLock&) = delete;

  /// False where the file cannot be made, or its file system has no locks.
  bool held() const { return descriptor_ >= 0; }

  /// Whether the locked file is still the one that others would open. A holder removes the file, so
  /// who waited for it may hold a lock that no newcomer sees, and has to start again. A stale
  /// answer of a network file system costs a kernel that is compiled twice, no more.
  bool is_current() const;

 private:
  void write_holder() const;

  std::string path_;
  int descriptor_ = -1;
};

/// Removes lock files in `folder` that nobody holds and whose last holder came over `age` ago, as a
/// killed process leaves them.
void remove_idle_locks(const std::string& folder, std::chrono::seconds age);

} // namespace baton::jit
