// SPDX-License-Identifier: Apache-2.0
// How the heads of queries, keys and values lie in memory.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace baton::ops::cuda {

/// Whether `pack` neighbours of the last dim can be read together everywhere: whole packs, which
/// begin at multiples of their size (of 16 bytes where they are larger).
bool heads_fit(const at::Tensor& heads, std::int64_t pack);

/// The tensor, or a copy where channels do not lie side by side.
at::Tensor with_contiguous_channels(const at::Tensor& heads);

} // namespace baton::ops::cuda
