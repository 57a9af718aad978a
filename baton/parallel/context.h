// SPDX-License-Identifier: Apache-2.0
// Context parallelism: how the tokens of a microbatch are cut among ranks, and what they exchange.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/base/layout.h"
#include "baton/parallel/group.h"

namespace baton::parallel {

/// The stream of T tokens in 2 cp segments; rank r holds segments r and 2 cp - 1 - r, one after the
/// other. Segment i is the tokens from bounds[i] to bounds[i + 1]; some may be empty.
struct ZigzagCut {
  int ranks = 1;
  std::vector<std::int64_t> bounds;

  int segments() const { return 2 * ranks; }
  std::int64_t length(int segment) const {
    return bounds[static_cast<std::size_t>(segment) + 1] -
           bounds[static_cast<std::size_t>(segment)];
  }
  int first_of(int rank) const { return rank; }
  int second_of(int rank) const { return 2 * ranks - 1 - rank; }
  int owner(int segment) const { return segment < ranks ? segment : 2 * ranks - 1 - segment; }
  std::int64_t tokens_of(int rank) const {
    return length(first_of(rank)) + length(second_of(rank));
  }
};

/// Segments of equal length, but for one token.
ZigzagCut cut_zigzag(std::int64_t num_tokens, int ranks);

} // namespace baton::parallel
