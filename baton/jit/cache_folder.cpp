// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache_folder.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <tuple>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/jit/cache_lock.h"

namespace baton::jit {

namespace testing {
// Tests fail or kill here: called with the name of each step of publishing an entry.
void (*before_step)(const std::string& step) = nullptr;
} // namespace testing

namespace {

namespace fs = std::filesystem;

constexpr const char* kEntryEnding = ".kernel";
constexpr const char* kLocks = "locks";
constexpr const char* kAside = "tmp";
// Marking an entry as used more often would only load a network file system.
constexpr std::chrono::hours kTouchAge{1};
// No kernel compiles for so long: what is older belongs to a process that died.
constexpr std::chrono::hours kLeftOverAge{1};

void announce(const char* step) {
  if (testing::before_step != nullptr) {
    testing::before_step(step);
  }
}

/// A file with what the system says about it.
struct FoundFile {
  std::string path;
  std::string arch; // name of the folder that it lies in
  std::string key;  // its name without the ending
  std::int64_t bytes = 0;
  timespec used{};
};

bool is_older(const timespec& time, std::chrono::seconds age) {
  return std::time(nullptr) - time.tv_sec >= age.count();
}

// Files of one folder. One that vanishes meanwhile is passed over: others remove entries, too.
void find_files(const fs::path& folder, const std::string& ending, std::vector<FoundFile>& found) {
  std::error_code error;
  for (fs::directory_iterator file(folder, error), end; !error && file != end;
       file.increment(error)) {
    struct stat status {};
    const fs::path& path = file->path();
    const bool wanted = ending.empty() || path.extension() == ending;
    if (wanted && stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
      found.push_back(
          {path.string(),
           folder.filename().string(),
           path.stem().string(),
           status.st_size,
           status.st_mtim});
    }
  }
}

std::vector<FoundFile> find_entries(const fs::path& folder) {
  std::vector<FoundFile> found;
  std::error_code error;
  for (fs::directory_iterator inner(folder, error), end; !error && inner != end;
       inner.increment(error)) {
    std::error_code not_a_folder;
    const std::string name = inner->path().filename().string();
    if (name != kLocks && name != kAside && inner->is_directory(not_a_folder)) {
      find_files(inner->path(), kEntryEnding, found);
    }
  }
  return found;
}

// Checks the bytes, and that they are the entry that the file's place promises.
EntryRead check(std::string_view bytes, const std::string& arch, const std::string& key) {
  EntryRead result;
  try {
    StoredKernel stored = decode_entry(bytes);
    if (stored.key != key || stored.arch != arch) {
      throw Error("holds " + stored.arch + "/" + stored.key);
    }
    result.stored = std::move(stored);
  } catch (const Error& error) {
    result.damage = error.what();
  }
  return result;
}

EntryRead read_entry(const FoundFile& file) {
  try {
    return check(read_file(file.path), file.arch, file.key);
  } catch (const Error& error) {
    EntryRead failed;
    failed.failure = error.what();
    return failed;
  }
}

void touch(const std::string& path, const timespec& used) {
  if (is_older(used, kTouchAge)) {
    // Without the right to, the entry only looks older than it is.
    utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  }
}

// Two writers on one host or on several never choose the same name.
std::string private_name() {
  static std::atomic<int> count{0};
  std::string name = process_name() + "-" + std::to_string(count++);
  std::replace(name.begin(), name.end(), ' ', '-');
  return name;
}

void remove_left_over(const std::string& path) {
  std::vector<FoundFile> aside;
  find_files(fs::path(path) / kAside, "", aside);
  for (const FoundFile& file : aside) {
    if (is_older(file.used, kLeftOverAge)) {
      unlink(file.path.c_str());
    }
  }
  remove_idle_locks(path + "/" + kLocks, kLeftOverAge);
}

} // namespace

std::string CacheFolder::entry_path(const std::string& arch, const std::string& key) const {
  return path_ + "/" + arch + "/" + key + kEntryEnding;
}

std::string CacheFolder::lock_path(const std::string& arch, const std::string& key) const {
  return path_ + "/" + kLocks + "/" + arch + "-" + key;
}

void CacheFolder::prepare() const {
  make_folders(path_ + "/" + kLocks);
  make_folders(path_ + "/" + kAside);
}

EntryRead CacheFolder::read(const std::string& arch, const std::string& key) const {
  const std::string path = entry_path(arch, key);
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    EntryRead absent;
    if (errno != ENOENT && errno != ENOTDIR) {
      absent.failure = path + ": cannot read: " + std::generic_category().message(errno);
    }
    return absent;
  }
  EntryRead result = read_entry({path, arch, key, status.st_size, status.st_mtim});
  if (result.stored) {
    touch(path, status.st_mtim);
  } else if (!result.failure.empty() && access(path.c_str(), F_OK) != 0) {
    result.failure.clear(); // Another process removed it in between: there is none.
  }
  return result;
}

void CacheFolder::publish(const StoredKernel& stored) const {
  announce("prepare");
  prepare();
  const std::string path = entry_path(stored.arch, stored.key);
  make_folders(fs::path(path).parent_path().string());
  announce("open");
  FileWriter file(path, path_ + "/" + kAside + "/" + private_name());
  announce("write");
  file.write(encode_entry(stored));
  announce("commit");
  file.commit();
  announce("published");
}

void CacheFolder::trim(std::int64_t bytes, const std::string& kept) const {
  std::vector<FoundFile> entries = find_entries(path_);
  std::int64_t sum = 0;
  for (const FoundFile& entry : entries) {
    sum += entry.bytes;
  }
  std::sort(entries.begin(), entries.end(), [](const FoundFile& a, const FoundFile& b) {
    return std::tie(a.used.tv_sec, a.used.tv_nsec, a.path) <
           std::tie(b.used.tv_sec, b.used.tv_nsec, b.path);
  });
  for (const FoundFile& entry : entries) {
    if (sum <= bytes) {
      break;
    }
    if (entry.path != kept) {
      // Gone already where another process trims as well.
      unlink(entry.path.c_str());
      sum -= entry.bytes;
    }
  }
  remove_left_over(path_);
}

std::vector<CacheListing> CacheFolder::list() const {
  std::vector<CacheListing> listings;
  for (const FoundFile& file : find_entries(path_)) {
    const EntryRead entry = read_entry(file);
    if (entry.stored) {
      const CompiledKernel& kernel = entry.stored->kernel;
      CacheListing listing;
      listing.name = entry.stored->name;
      listing.arch = file.arch;
      listing.key = file.key;
      listing.bytes = file.bytes;
      listing.last_use = std::chrono::system_clock::from_time_t(file.used.tv_sec);
      listing.registers = kernel.registers;
      listing.spill_bytes = kernel.spill_bytes;
      listing.shared_bytes = kernel.shared_bytes;
      listing.microseconds = kernel.microseconds;
      listings.push_back(std::move(listing));
    }
  }
  std::sort(listings.begin(), listings.end(), [](const CacheListing& a, const CacheListing& b) {
    return std::tie(a.arch, a.name, a.key) < std::tie(b.arch, b.name, b.key);
  });
  return listings;
}

std::vector<DamagedEntry> CacheFolder::damaged() const {
  std::vector<DamagedEntry> damaged;
  for (const FoundFile& file : find_entries(path_)) {
    const EntryRead entry = read_entry(file);
    if (!entry.damage.empty()) {
      damaged.push_back({file.path, file.arch, file.key, entry.damage});
    }
  }
  std::sort(damaged.begin(), damaged.end(), [](const DamagedEntry& a, const DamagedEntry& b) {
    return a.path < b.path;
  });
  return damaged;
}

std::int64_t CacheFolder::clear() const {
  std::int64_t removed = 0;
  for (const FoundFile& file : find_entries(path_)) {
    removed += unlink(file.path.c_str()) == 0 ? 1 : 0;
  }
  remove_left_over(path_);
  remove_idle_locks(path_ + "/" + kLocks, std::chrono::seconds(0));
  return removed;
}

} // namespace baton::jit
