// SPDX-License-Identifier: Apache-2.0
// From the name of a device source to a kernel that can be launched.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "baton/jit/cache.h"
#include "baton/jit/compiler.h"
#include "baton/jit/kernel.h"

namespace baton::jit {

/// A kernel of one of the embedded sources, specialised.
struct KernelSpec {
  std::string source;               ///< "baton/ops/cuda/rms_norm.cu"
  std::string entry;                ///< name expression: "baton::rms_norm<float, 4>"
  std::vector<std::string> options; ///< of NVRTC, such as "-DCHUNK=64"
};

/// What is compiled for a spec on an architecture. Throws Error where no such source is embedded.
CompileRequest request_of(const KernelSpec& spec, const std::string& arch);

/// The kernels of this process: out of memory, the shared cache, or the compiler. Safe for threads;
/// two that want one kernel wait for each other, others do not.
class KernelStore {
 public:
  explicit KernelStore(KernelCacheOptions options);

  /// The kernel for the current device; lives as long as the store. Throws RunError without a
  /// driver or a compiler, Error where the source does not compile.
  const Kernel& get(const KernelSpec& spec);

 private:
  using Name = std::tuple<std::string, std::string, std::string, std::vector<std::string>>;

  Compiler compiler_;
  KernelCache cache_;
  std::mutex mutex_; // of kernels_
  std::map<Name, std::unique_ptr<const Kernel>> kernels_;
};

/// The store that all operators of a process share, with the cache that the environment names. Made
/// at the first call and never destroyed: the driver may go before it.
KernelStore& kernel_store();

} // namespace baton::jit
