// SPDX-License-Identifier: Apache-2.0
// CUDA C++ to machine code at run time, with no toolkit installed and no GPU present.
#pragma once

#include <string>

#include "baton/jit/nvrtc_library.h"
#include "baton/jit/request.h"

namespace baton::jit {

/// Compiles kernels by NVRTC. Safe for threads.
class Compiler {
 public:
  /// Opens NVRTC. Throws RunError that says where was looked when there is none.
  Compiler();

  /// Compiles for exactly the request's architecture. CUDA's own headers (<cuda_bf16.h>) are found
  /// beside NVRTC, whose options are the request's and those that name the architecture and ask the
  /// assembler for its report. Throws Error: one line that names the kernel and the architecture,
  /// then NVRTC's log.
  CompiledKernel compile(const CompileRequest& request) const;

  /// Throws Error, naming those that there are, for an architecture that this NVRTC does not know.
  void check_arch(const std::string& arch) const;

  /// All that this compiler's output may depend on besides a request, for the cache's key.
  const std::string& compiler_version() const { return version_; }

 private:
  NvrtcLibrary nvrtc_;
  std::string version_;
  std::string include_folder_; // of CUDA's headers; empty: not found
};

} // namespace baton::jit
