// SPDX-License-Identifier: Apache-2.0
// The kernels of the CUDA operators, by name: what a launch asks for, and what a build checks
// without a GPU.
#pragma once

#include <cstdint>
#include <functional>
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

/// What of a model decides which kernels it launches.
struct KernelModel {
  c10::ScalarType dtype = c10::ScalarType::BFloat16; ///< of its activations
  std::int64_t head_dim = 0;                         ///< of its mixers
  std::int64_t state_dim = 0;
  std::int64_t conv_width = 0;
};

/// A kernel, the registers of a thread that it may take at most, and what it is for. None may
/// spill.
struct KernelBudget {
  jit::KernelSpec spec;
  int registers = 0;
  std::function<bool(const KernelModel&)> sizes_serve = {}; ///< none: models of all sizes
  std::string arch = {}; ///< the only one that has its instructions; empty: any

  bool fits(const std::string& other) const { return arch.empty() || arch == other; }
  /// Whether such a model may launch it. Beside bf16 some tensors of a model are fp32.
  bool serves(const KernelModel& model) const;
};

/// Every kernel that an operator may launch.
std::vector<KernelBudget> all_kernels();

} // namespace baton::ops
