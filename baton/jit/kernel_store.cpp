// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/kernel_store.h"

#include <utility>

#include "baton/jit/source.h"

namespace baton::jit {

CompileRequest request_of(const KernelSpec& spec, const std::string& arch) {
  DeviceSource source = device_source(spec.source);
  CompileRequest request;
  request.name = spec.entry;
  request.source = std::move(source.source);
  request.headers = std::move(source.headers);
  request.options = spec.options;
  request.options.emplace_back("--std=c++20");
  request.arch = arch;
  request.entry = spec.entry;
  return request;
}

KernelStore::KernelStore(KernelCacheOptions options) : cache_(std::move(options)) {}

const Kernel& KernelStore::get(const KernelSpec& spec) {
  const std::string arch = current_arch();
  const Name name{arch, spec.source, spec.entry, spec.options};
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = kernels_.find(name); found != kernels_.end()) {
      return *found->second;
    }
  }
  // Without the lock: the cache lets threads that want one kernel wait for each other.
  auto kernel = std::make_unique<const Kernel>(
      spec.entry,
      cache_.get(
          request_of(spec, arch),
          compiler_.compiler_version(),
          [this](const CompileRequest& request) { return compiler_.compile(request); }));
  const std::lock_guard<std::mutex> lock(mutex_);
  return *kernels_.emplace(name, std::move(kernel)).first->second;
}

KernelStore& kernel_store() {
  static auto* const store = new KernelStore(kernel_cache_options());
  return *store;
}

} // namespace baton::jit
