// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of the operators on rows of channels, by name: norms, gates, activations and
// rotary positions.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/ScalarType.h>

#include "baton/jit/kernel_store.h"
#include "baton/ops/cuda_kernels.h"

namespace baton::ops {

/// Neighbours that a thread reads at once where rows allow it: as many as 16 bytes hold, and one
/// for fp64, which needs no speed.
std::int64_t row_pack(c10::ScalarType activation);

/// What a thread holds of a group of channels.
struct NormPacks {
  std::int64_t pack = 1;  ///< neighbours: 1 or row_pack()
  std::int64_t packs = 0; ///< 0: a group that registers do not hold
};

/// All that there are kernels for, the fewest packs first and 0 last.
std::vector<NormPacks> norm_packs(c10::ScalarType activation);

struct NormKernels {
  jit::KernelSpec forward;
  jit::KernelSpec backward;
};
NormKernels
rms_norm_kernels(c10::ScalarType activation, c10::ScalarType weight, const NormPacks& packs);
NormKernels gated_norm_kernels(
    c10::ScalarType activation,
    c10::ScalarType weight,
    const NormPacks& packs,
    bool gate_first);
NormKernels add_rms_norm_kernels(
    c10::ScalarType residual,
    c10::ScalarType activation,
    c10::ScalarType weight,
    const NormPacks& packs);

/// The sum over blocks of partial sums of one type as another.
jit::KernelSpec sum_partials_kernel(c10::ScalarType sums, c10::ScalarType out);

/// The gate without a norm, `pack` neighbours at a time: 1 or row_pack().
NormKernels gate_kernels(c10::ScalarType activation, std::int64_t pack);

struct ActivationKernels {
  jit::KernelSpec squared_relu;
  jit::KernelSpec squared_relu_backward;
  jit::KernelSpec swiglu;
  jit::KernelSpec swiglu_backward;
};
ActivationKernels activation_kernels(c10::ScalarType activation, std::int64_t pack);

jit::KernelSpec rotary_kernel(c10::ScalarType activation, std::int64_t pack, bool interleaved);

void add_row_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
