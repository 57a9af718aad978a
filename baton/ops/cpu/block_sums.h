// SPDX-License-Identifier: Apache-2.0
// Sums of parameter gradients over blocks of tokens, in an order that no thread count changes.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Sum over the rows of `partials` [blocks, ...] (fp32 or fp64, contiguous), added as a binary tree
/// over the block index: blocks 0+1, 2+3, ..., then pairs of those. Overwrites `partials`; returns
/// its first row, or zeros when there is no block.
at::Tensor sum_over_blocks(const at::Tensor& partials);

} // namespace baton::ops
