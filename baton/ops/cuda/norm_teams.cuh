// SPDX-License-Identifier: Apache-2.0
// How norms share rows among threads; the same for host and device. A row has groups of
// neighbouring channels, each with its own mean square. A team of threads takes one group of one
// row at a time. threadIdx.x counts a team's threads, threadIdx.y groups and threadIdx.z rows of a
// block, as do blockIdx.y and blockIdx.x. A team is a power of two up to a warp, or several whole
// warps, of one block.
#pragma once

namespace baton {

constexpr int kMostTeamThreads = 512;
constexpr int kSumWarps = 32; // of a block that adds up what the blocks of a gradient left

/// Largest teams, at least, that share a multiprocessor, when a thread of a norm holds inputs of
/// kBytes.
template <int kBytes>
constexpr int kNormTeams = kBytes <= 64 ? 2 : 1;

/// The same of its gradients, when a thread holds kValues of a row.
template <int kValues>
constexpr int kTeamsTogether = kValues <= 8 ? 2 : 1;

} // namespace baton
