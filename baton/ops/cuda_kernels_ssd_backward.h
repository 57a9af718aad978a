// SPDX-License-Identifier: Apache-2.0
// The kernels of the backward scan beside its sweeps (cuda_kernels_ssd.h), by name.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/ops/cuda_kernels.h"
#include "baton/ops/cuda_kernels_ssd.h"

namespace baton::ops {

/// The kernel of the gradients of chunks, for a state dim of N.
struct SsdGradientKernel {
  SsdKernel kernel;
  std::int64_t owners = 0; ///< blocks that share the state dims
};
SsdGradientKernel ssd_gradient_kernel(c10::ScalarType activation, std::int64_t N);

SsdKernel ssd_token_gradients_kernel();
SsdKernel ssd_sum_chunks_kernel();
SsdKernel ssd_add_parts_kernel(c10::ScalarType activation);
SsdKernel ssd_add_to_slots_kernel();

/// Appends all of them.
void add_ssd_backward_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
