// SPDX-License-Identifier: Apache-2.0
// The folder of compiled kernels: one file an entry, readers never see half of one.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "baton/jit/cache_entry.h"

namespace baton::jit {

/// What became of reading one entry. All empty: there is none.
struct EntryRead {
  std::optional<StoredKernel> stored;
  std::string damage;  ///< what is wrong with the bytes
  std::string failure; ///< why the system gave no bytes
};

/// A file of the folder, as a list of the cache shows it.
struct CacheListing {
  std::string name;
  std::string arch;
  std::string key;
  std::int64_t bytes = 0;                         ///< of the file
  std::chrono::system_clock::time_point last_use; ///< within an hour
  int registers = 0;                              ///< per thread
  int spill_bytes = 0;                            ///< per thread
  int shared_bytes = 0;                           ///< per block, static part
  std::int64_t microseconds = 0;                  ///< that compiling took
};

/// A file that was not a whole entry.
struct DamagedEntry {
  std::string path;
  std::string arch; ///< by its place, as the key
  std::string key;
  std::string damage;
};

/// Entries are `<folder>/<arch>/<key>.kernel`; `tmp` holds files that are being written, `locks`
/// one file for each key that is being compiled. Safe for threads, processes and hosts at once.
class CacheFolder {
 public:
  explicit CacheFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string entry_path(const std::string& arch, const std::string& key) const;
  std::string lock_path(const std::string& arch, const std::string& key) const;

  /// Makes the folders of locks and files aside. Throws as make_folders does.
  void prepare() const;

  /// Reads an entry and marks it as used, at most once an hour.
  EntryRead read(const std::string& arch, const std::string& key) const;

  /// Writes an entry aside, syncs it and renames it to its place. Throws Error, RunError where the
  /// disk is full or fails.
  void publish(const StoredKernel& stored) const;

  /// Removes the entries used longest ago until at most `bytes` remain, `kept` never; and what
  /// killed processes left over an hour ago.
  void trim(std::int64_t bytes, const std::string& kept) const;

  /// All whole entries, by architecture, name and key.
  std::vector<CacheListing> list() const;

  /// All entries that are not whole, by path.
  std::vector<DamagedEntry> damaged() const;

  /// Removes all entries, lock files that nobody holds and what killed processes left over an hour
  /// ago; returns the number of entries.
  std::int64_t clear() const;

 private:
  std::string path_;
};

} // namespace baton::jit
