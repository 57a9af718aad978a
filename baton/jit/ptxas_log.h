// SPDX-License-Identifier: Apache-2.0
// What the assembler says about kernels under --ptxas-options=-v.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace baton::jit {

/// What one kernel takes.
struct KernelResources {
  std::string symbol;   ///< the kernel's name in the cubin
  int registers = 0;    ///< per thread
  int spill_bytes = 0;  ///< stored and loaded per thread for want of registers
  int shared_bytes = 0; ///< per block, static part
  int stack_bytes = 0;  ///< per thread
};

/// One element for each kernel of the log, in its order; other lines are passed over.
std::vector<KernelResources> parse_ptxas_log(std::string_view log);

} // namespace baton::jit
