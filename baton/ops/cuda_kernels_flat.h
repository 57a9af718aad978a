// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of operators that take values one by one (dropout, AdamW, sums of squares), by
// name.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/ScalarType.h>

#include "baton/jit/kernel_store.h"
#include "baton/ops/cuda_kernels.h"

namespace baton::ops {

inline constexpr std::int64_t kDropoutWords = 4; ///< random words of one counter

/// Neighbours that a thread of dropout takes where rows allow it: whole counters.
std::int64_t widest_dropout_pack(c10::ScalarType type);

/// `pack` is 1 or widest_dropout_pack().
jit::KernelSpec dropout_kernel(c10::ScalarType type, std::int64_t pack);

/// `pack` is 1 or widest_pack().
jit::KernelSpec sum_squares_kernel(c10::ScalarType type, std::int64_t pack);
jit::KernelSpec sum_blocks_kernel();

/// `pack` is 1 or widest_pack() of the working type, which is fp64 for fp64 and otherwise fp32.
jit::KernelSpec
adamw_kernel(c10::ScalarType parameter, c10::ScalarType gradient, std::int64_t pack);

void add_flat_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
