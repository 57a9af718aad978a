// SPDX-License-Identifier: Apache-2.0
// The kernels of the scan that only sm_90a has, by name: for bf16 heads of 64 channels with a state
// dim N of 64 or 128.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/ops/cuda_kernels.h"
#include "baton/ops/cuda_kernels_ssd.h"

namespace baton::ops {

/// The architecture of these kernels.
inline constexpr const char* kHopperArch = "sm_90a";

/// `convolves` x on the way.
SsdKernel ssd_hopper_kernel(std::int64_t N, bool gated, bool convolves);
/// A block takes 64 or 128 columns of a state.
SsdKernel ssd_hopper_sweep_kernel(std::int64_t columns);
SsdKernel ssd_hopper_gradients_kernel(std::int64_t N);

/// Appends all of them.
void add_ssd_hopper_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
