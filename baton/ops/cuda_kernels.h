// SPDX-License-Identifier: Apache-2.0
// The kernels of the CUDA operators, by name: what a launch asks for, and what a build checks
// without a GPU.
#pragma once

#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

#include "baton/jit/kernel_store.h"

namespace baton::ops {

/// Threads of a block of the kernels on rows, and of a warp (as in rows.cuh).
inline constexpr unsigned kRowThreads = 256;
inline constexpr unsigned kWarpThreads = 32;

/// A dtype's name in device code. Throws where there are no kernels for it.
std::string cuda_type_name(c10::ScalarType type);

/// Neighbours that a thread of the kernels on rows reads and writes at once where rows allow it: as
/// many as 16 bytes hold.
std::int64_t widest_pack(c10::ScalarType activation);

/// A kernel, the registers of a thread that it may take at most, and what it is for.
struct KernelBudget {
  jit::KernelSpec spec;
  int registers = 0;
  std::string arch = {}; ///< the only one that has its instructions; empty: any

  bool fits(const std::string& other) const { return arch.empty() || arch == other; }
};

/// Every kernel that an operator may launch.
std::vector<KernelBudget> all_kernels();

} // namespace baton::ops
