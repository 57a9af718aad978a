// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache.h"

#include <charconv>
#include <optional>
#include <utility>

#include <unistd.h>

#include "baton/base/env.h"
#include "baton/base/error.h"
#include "baton/base/log.h"
#include "baton/jit/cache_key.h"
#include "baton/jit/cache_lock.h"

namespace baton::jit {
namespace {

// A lock is lost to another process's clean-up at most once for each kernel that is published
// meanwhile. A file system whose file numbers change with every look would lose it for ever.
constexpr int kMostLocks = 100;

// It becomes a folder's name.
void check_arch(const std::string& arch) {
  const bool plain =
      !arch.empty() &&
      arch.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
  if (!plain) {
    throw Error("an architecture is letters and digits, such as sm_90a: \"" + arch + "\"");
  }
}

std::int64_t parse_bytes(const std::string& text) {
  std::int64_t bytes = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, bytes);
  if (error != std::errc() || rest != end || bytes < 0) {
    throw Error(
        std::string(kEnvKernelCacheBytes.name) + " must be a whole number of bytes: \"" + text +
        "\"");
  }
  return bytes;
}

std::string default_folder() {
  if (const std::optional<std::string> folder = read_env(kEnvKernelCache)) {
    return *folder;
  }
  if (const std::optional<std::string> caches = read_env(kEnvUserCache)) {
    return *caches + "/baton/kernels";
  }
  const std::optional<std::string> home = read_env(kEnvHome);
  return home ? *home + "/.cache/baton/kernels" : "";
}

} // namespace

KernelCacheOptions kernel_cache_options() {
  KernelCacheOptions options;
  options.folder = default_folder();
  if (const std::optional<std::string> bytes = read_env(kEnvKernelCacheBytes)) {
    options.bytes = parse_bytes(*bytes);
  }
  return options;
}

KernelCache::KernelCache(KernelCacheOptions options)
    : folder_(std::move(options.folder)),
      bytes_(options.bytes),
      notice_after_(options.notice_after) {}

std::shared_ptr<const CompiledKernel> KernelCache::get(
    const CompileRequest& request,
    const std::string& compiler_version,
    const CompileFunction& compile) {
  check_arch(request.arch);
  StoredKernel wanted;
  wanted.key = cache_key(request, compiler_version);
  wanted.name = request.name;
  wanted.arch = request.arch;
  wanted.entry = request.entry;
  wanted.options = request.options;
  wanted.compiler_version = compiler_version;
  const std::shared_ptr<Slot> slot = slot_of(wanted.arch, wanted.key);
  const std::lock_guard<std::mutex> lock(slot->mutex);
  if (!slot->kernel) {
    slot->kernel = std::make_shared<const CompiledKernel>(
        find_or_build(std::move(wanted), [&] { return compile(request); }));
  }
  return slot->kernel;
}

std::shared_ptr<KernelCache::Slot> KernelCache::slot_of(
    const std::string& arch,
    const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Slot>& slot = slots_[arch + "/" + key];
  if (!slot) {
    slot = std::make_shared<Slot>();
  }
  return slot;
}

CompiledKernel KernelCache::find_or_build(
    StoredKernel wanted,
    const std::function<CompiledKernel()>& compile) {
  if (folder().empty()) {
    return compile();
  }
  if (EntryRead found = folder_.read(wanted.arch, wanted.key); found.stored) {
    return std::move(found.stored->kernel);
  }
  for (int locks = 0; writes() && locks < kMostLocks; ++locks) {
    try {
      folder_.prepare();
    } catch (const Error&) {
      break; // Publishing will fail for the same reason, and say so.
    }
    const KeyLock lock(
        folder_.lock_path(wanted.arch, wanted.key),
        "kernel " + wanted.name + " for " + wanted.arch,
        notice_after_);
    if (!lock.held()) {
      break;
    }
    if (EntryRead found = read_locked(wanted); found.stored) {
      return std::move(found.stored->kernel);
    }
    if (lock.is_current()) {
      wanted.kernel = compile();
      publish(wanted);
      return std::move(wanted.kernel);
    }
  }
  wanted.kernel = compile();
  // Whoever published first is the one whose bytes all use.
  if (EntryRead found = read_locked(wanted); found.stored) {
    return std::move(found.stored->kernel);
  }
  publish(wanted);
  return std::move(wanted.kernel);
}

// A second look by the one who is going to build: takes damaged bytes out of the way.
EntryRead KernelCache::read_locked(const StoredKernel& wanted) {
  EntryRead found = folder_.read(wanted.arch, wanted.key);
  if (!found.damage.empty()) {
    const std::string path = folder_.entry_path(wanted.arch, wanted.key);
    log_warning(path + ": " + found.damage + "; this kernel is compiled again");
    unlink(path.c_str());
  } else if (!found.failure.empty()) {
    report(found.failure);
  }
  return found;
}

void KernelCache::publish(const StoredKernel& stored) {
  if (!writes()) {
    return;
  }
  try {
    folder_.publish(stored);
  } catch (const Error& error) {
    // Every later attempt would hold up those who wait for the same lock.
    memory_only_ = true;
    report(std::string(error.what()) + "; kernels compiled from here on are kept in memory only");
    return;
  }
  folder_.trim(bytes_, folder_.entry_path(stored.arch, stored.key));
}

void KernelCache::report(const std::string& trouble) {
  if (!reported_.exchange(true)) {
    log_warning("kernel cache: " + trouble);
  }
}

std::vector<CacheListing> KernelCache::list() const {
  return folder().empty() ? std::vector<CacheListing>() : folder_.list();
}

std::vector<DamagedEntry> KernelCache::verify() {
  if (folder().empty()) {
    return {};
  }
  std::vector<DamagedEntry> damaged = folder_.damaged();
  for (const DamagedEntry& entry : damaged) {
    const KeyLock lock(
        folder_.lock_path(entry.arch, entry.key), entry.path + " is damaged", notice_after_);
    // Meanwhile somebody may have built it again.
    if (!folder_.read(entry.arch, entry.key).damage.empty()) {
      unlink(entry.path.c_str());
    }
  }
  return damaged;
}

std::int64_t KernelCache::clear() {
  return folder().empty() ? 0 : folder_.clear();
}

} // namespace baton::jit
