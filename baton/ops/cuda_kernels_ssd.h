// SPDX-License-Identifier: Apache-2.0
// The kernels of the scan's forward operators, by name.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/ops/cuda_kernels.h"

namespace baton::ops {

/// Channels of a head and state dim that the kernels of the scan are compiled for.
struct SsdTile {
  std::int64_t channels = 0;  ///< of a head that a block takes: 32 or 64
  std::int64_t state_dim = 0; ///< N padded to 32, 64, 128 or 256
};

/// The tile for heads of P channels and a state dim of N. Throws where N is above 256.
SsdTile ssd_tile(std::int64_t P, std::int64_t N);

/// A kernel whose blocks take `shared_bytes` of shared memory and `threads` threads.
struct SsdKernel {
  jit::KernelSpec spec;
  unsigned threads = 0;
  unsigned shared_bytes = 0;
};

SsdKernel ssd_forward_kernel(c10::ScalarType activation, SsdTile tile);

SsdKernel ssd_sweep_kernel(c10::ScalarType activation, SsdTile tile);
SsdKernel ssd_combine_kernel(bool reverse);
SsdKernel ssd_mark_starts_kernel();

struct SsdStepKernel {
  SsdKernel kernel;
  std::int64_t channels = 0; ///< of a head that a block takes
};
/// `packed`: rows of B, C and the states can be read four values at a time.
SsdStepKernel ssd_step_kernel(c10::ScalarType activation, std::int64_t N, bool packed);

/// Appends all of them.
void add_ssd_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
