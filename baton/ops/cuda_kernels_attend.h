// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of attention over pages and cross entropy, by name.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/core/ScalarType.h>

#include "baton/jit/kernel_store.h"
#include "baton/ops/cuda_kernels.h"

namespace baton::ops {

inline constexpr std::int64_t kMostPagedChannels = 256;

/// A kernel of paged_attention.cu, with the tile that a block of it takes.
struct PagedAttentionKernel {
  jit::KernelSpec spec;
  std::int64_t rows = 0; ///< queries times query heads of a key head
  std::int64_t keys = 0; ///< what a block takes at a time
  std::int64_t shared_bytes = 0;
};

/// On tensor units, for bf16 and up to 256 channels. `many_queries` chooses tiles of 64 rows rather
/// than 16.
PagedAttentionKernel paged_attention_tiles(std::int64_t channels, bool many_queries);

/// Without them, for up to 256 channels of fp32, four side by side where `packs`, or bf16.
PagedAttentionKernel paged_attention_lanes(c10::ScalarType type, std::int64_t channels, bool packs);

jit::KernelSpec merge_splits_kernel(c10::ScalarType type);

/// From keys of one dtype to pages of another, `pack` neighbours at a time.
jit::KernelSpec paged_write_kernel(c10::ScalarType from, c10::ScalarType to, std::int64_t pack);

/// Threads of a block of token_losses (as in cross_entropy.cu).
inline constexpr unsigned kLossThreads = 512;

/// From logits to losses, and to gradients of another dtype.
jit::KernelSpec token_losses_kernel(c10::ScalarType logits, c10::ScalarType gradient);
jit::KernelSpec sum_losses_kernel(c10::ScalarType type);

/// Those of this header, and of the embedding.
void add_attend_kernels(std::vector<KernelBudget>& kernels);

} // namespace baton::ops
