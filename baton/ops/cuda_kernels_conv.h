// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of the causal convolution and of writes to slots, by name.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/ScalarType.h>

#include "baton/jit/kernel_store.h"
#include "baton/ops/cuda_kernels.h"

namespace baton::ops {

/// Neighbouring channels of a thread where rows allow it: as many as registers hold the weights of.
std::int64_t widest_conv_pack(c10::ScalarType activation);

/// Kernels of the causal convolution for activations of this type, `pack` neighbours at a time (1
/// or widest_conv_pack()) and K = `width`.
jit::KernelSpec
causal_conv1d_kernel(c10::ScalarType activation, std::int64_t pack, std::int64_t width, bool silu);
jit::KernelSpec causal_conv1d_backward_kernel(
    c10::ScalarType activation,
    std::int64_t pack,
    std::int64_t width,
    bool silu);
jit::KernelSpec
causal_conv1d_step_kernel(c10::ScalarType activation, std::int64_t pack, std::int64_t width);
jit::KernelSpec causal_conv1d_parameters_kernel(c10::ScalarType activation);
jit::KernelSpec causal_conv1d_state_gradients_kernel(c10::ScalarType activation);

/// Neighbours that a thread of write_slots converts between fp32 and bf16 at once where rows allow
/// it.
inline constexpr std::int64_t kSlotPack = 8;

/// From values of one dtype to a cache of another, `pack` neighbours at a time: 1 or kSlotPack, the
/// latter not for fp64.
jit::KernelSpec write_slots_kernel(c10::ScalarType from, c10::ScalarType to, std::int64_t pack);

void add_conv_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
