// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of the embedding's gradient, by name.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/ScalarType.h>

#include "baton/jit/kernel_store.h"
#include "baton/ops/cuda_kernels.h"

namespace baton::ops {

/// Rows that a block of embedding_chunks takes (as in embedding.cu).
inline constexpr std::int64_t kEmbeddingChunkRows = 32;

/// Kernels of embedding.cu, `pack` neighbours at a time: 1 or widest_pack().
struct EmbeddingKernels {
  jit::KernelSpec chunks;
  jit::KernelSpec joins;
};
EmbeddingKernels embedding_kernels(c10::ScalarType type, std::int64_t pack);

void add_embedding_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
