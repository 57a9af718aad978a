// SPDX-License-Identifier: Apache-2.0
// Compiled kernels, kept on disk and shared by all ranks and hosts that see the folder.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "baton/jit/cache_folder.h"
#include "baton/jit/request.h"

namespace baton::jit {

struct KernelCacheOptions {
  std::string folder;                           ///< empty: memory only
  std::int64_t bytes = std::int64_t{1} << 31;   ///< limit of the entries' files together
  std::chrono::milliseconds notice_after{5000}; ///< of waiting for another process
};

/// The folder of BATON_KERNEL_CACHE, else baton/kernels in $XDG_CACHE_HOME or $HOME/.cache, else
/// none; the limit of BATON_KERNEL_CACHE_BYTES. Throws Error where that is not a whole number.
KernelCacheOptions kernel_cache_options();

/// Gives each kernel that was compiled once, by whichever process. A process that misses takes the
/// key's lock, compiles and publishes, the others wait for it and read; where locks do not work
/// each compiles for itself and the first to publish wins. A damaged entry is logged and built
/// again. Trouble with the folder (read-only, full, gone) costs one line in the log and is no
/// error: what cannot be published stays in memory, like all that was asked for once. Safe for
/// threads.
class KernelCache {
 public:
  explicit KernelCache(KernelCacheOptions options);

  /// The kernel of `request` as the compiler of `compiler_version` makes it. Throws Error for an
  /// architecture that is no plain name, and whatever `compile` throws.
  std::shared_ptr<const CompiledKernel> get(
      const CompileRequest& request,
      const std::string& compiler_version,
      const CompileFunction& compile);

  /// All whole entries on disk, by architecture, name and key.
  std::vector<CacheListing> list() const;

  /// Reads all entries, removes the damaged ones and returns them.
  std::vector<DamagedEntry> verify();

  /// Removes all entries; returns their number. What this process was given stays in memory.
  std::int64_t clear();

  /// Empty for a cache in memory.
  const std::string& folder() const { return folder_.path(); }

 private:
  // What threads of this process that ask for one key have in common.
  struct Slot {
    std::mutex mutex;
    std::shared_ptr<const CompiledKernel> kernel;
  };

  std::shared_ptr<Slot> slot_of(const std::string& arch, const std::string& key);
  bool writes() const { return !folder_.path().empty() && !memory_only_; }
  CompiledKernel find_or_build(StoredKernel wanted, const std::function<CompiledKernel()>& compile);
  EntryRead read_locked(const StoredKernel& wanted);
  void publish(const StoredKernel& stored);
  void report(const std::string& trouble);

  CacheFolder folder_;
  std::int64_t bytes_;
  std::chrono::milliseconds notice_after_;
  std::mutex mutex_; // of slots_
  std::map<std::string, std::shared_ptr<Slot>> slots_;
  std::atomic<bool> memory_only_{false}; // publishing failed once
  std::atomic<bool> reported_{false};
};

} // namespace baton::jit
