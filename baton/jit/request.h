// SPDX-License-Identifier: Apache-2.0
// What a kernel is compiled from, and what comes of it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace baton::jit {

/// Device code and the name by which it is included: "baton/ops/cuda/tile.cuh".
struct SourceFile {
  std::string name;
  std::string text;
};

/// One kernel, specialised by its options and its entry.
struct CompileRequest {
  std::string name; ///< for messages and lists; not part of the kernel's identity
  SourceFile source;
  std::vector<SourceFile> headers;  ///< all that the source includes, directly or not
  std::vector<std::string> options; ///< of NVRTC: "-DCHUNK=64"
  std::string arch;                 ///< "sm_80", "sm_90a"
  std::string entry;                ///< name expression of the kernel: "baton::scan<64, 128>"
};

/// Machine code for one architecture, with what one thread or block of its entry takes.
struct CompiledKernel {
  std::string cubin;
  std::string entry_symbol;      ///< the entry's name in the cubin
  std::string log;               ///< the compiler's; empty for a kernel out of the cache
  int registers = 0;             ///< per thread
  int spill_bytes = 0;           ///< stored and loaded per thread for want of registers
  int shared_bytes = 0;          ///< per block, static part
  int stack_bytes = 0;           ///< per thread
  std::int64_t microseconds = 0; ///< that compiling took
};

using CompileFunction = std::function<CompiledKernel(const CompileRequest&)>;

} // namespace baton::jit
