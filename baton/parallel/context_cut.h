// SPDX-License-Identifier: Apache-2.0
// How the stream of a microbatch is cut among the ranks of context parallelism.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/base/layout.h"

namespace baton::parallel {

/// The stream of T tokens in 2 cp segments. Rank r holds segments r and 2 cp - 1 - r, one after the
/// other, which balances causal attention within a long document. Segment i is the tokens from
/// bounds[i] to bounds[i + 1]; lengths differ by one token at most, and may be zero.
struct ZigzagCut {
  ZigzagCut(std::int64_t num_tokens, int ranks);

  int ranks;
  std::vector<std::int64_t> bounds;

  int segments() const { return 2 * ranks; }
  std::int64_t length(int segment) const {
    return bounds[static_cast<std::size_t>(segment) + 1] -
           bounds[static_cast<std::size_t>(segment)];
  }
  /// The two segments of a rank, the earlier one first.
  std::array<int, 2> of(int rank) const { return {rank, segments() - 1 - rank}; }
  int owner(int segment) const { return segment < ranks ? segment : segments() - 1 - segment; }
  std::int64_t tokens_of(int rank) const { return length(of(rank)[0]) + length(of(rank)[1]); }
  int segment_of(std::int64_t token) const;
};

/// A document of the stream, or what of it the stream holds.
struct Document {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t first_position = 0;
};

/// What attention of one segment's queries needs: they see the keys of the stream from `first_key`
/// to the end of the segment.
struct SegmentKeys {
  std::int64_t first_key = 0;
  std::int64_t num_keys = 0;
  at::Tensor starts_q_B1;
  at::Tensor starts_k_B1;
  std::int64_t longest_q = 0;
  std::int64_t longest_k = 0;
  std::int64_t pairs = 0; ///< of a query and a key that it sees
};

/// Rows that lie one after the other.
struct RowRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// What the queries of one rank see of another rank's keys, all of them: the keys' segments lie
/// before those of the queries, in the same document. At most one sequence a segment of queries.
struct UnmaskedPairs {
  std::vector<RowRange> queries; ///< of the one rank's rows, a range a sequence
  std::vector<RowRange> keys;    ///< of the other's; sequence after sequence, up to two ranges each
  at::Tensor starts_q_B1;
  at::Tensor starts_k_B1;
  std::int64_t longest_q = 0;
  std::int64_t longest_k = 0;
};

/// The rows of a rank's segments that see, in a convolution, rows from before the segment: the
/// first K - 1 of the document that goes on into it.
struct SegmentHeads {
  std::array<RowRange, 2> rows; ///< of the rank's rows, by segment; none where nothing goes on
  at::Tensor starts_B1;         ///< of the two, one behind the other
};

/// One rank's part of a stream.
struct ContextPart {
  std::array<std::int64_t, 2> begins{}; ///< of its segments in the stream
  std::array<std::int64_t, 2> lengths{};
  SequenceLayout layout; ///< pieces of documents, those of the first segment first
  /// By segment: numbers of its first and last sequence in `layout`. Each segment has at least one;
  /// an empty segment has an empty one.
  std::array<std::int64_t, 2> first_sequence{};
  std::array<std::int64_t, 2> last_sequence{};
  /// Whether a document goes on into the segment from before it: then its first sequence starts
  /// from slot 0 (first segment) or 1 (second).
  std::array<bool, 2> continues{};
  /// Whether a state that enters a segment leaves it, because no document begins or ends inside.
  std::array<bool, 2> passes{};

  SegmentHeads heads(std::int64_t width) const;
};

/// All that is known of a stream's cut on the host.
class ContextPlan {
 public:
  /// `stream` describes the whole microbatch: the same on all ranks.
  ContextPlan(const SequenceLayout& stream, int ranks);

  const ZigzagCut& cut() const { return cut_; }
  ContextPart part_of(int rank) const;
  SegmentKeys keys_of(int segment) const;

  UnmaskedPairs pairs_of(int rank, int keys_of_rank) const;

  /// Of each segment of `rank`: the tokens of the stream that the `width` - 1 before it are, oldest
  /// first; -1 where its document has none, or nothing goes on into it.
  std::array<std::vector<std::int64_t>, 2> tails_of(int rank, std::int64_t width) const;

  /// The most work in attention that a rank has, over the mean of all ranks.
  double attention_imbalance() const;

 private:
  const Document* document_at(std::int64_t token) const;

  ZigzagCut cut_;
  std::vector<Document> documents_; ///< without empty ones
};

} // namespace baton::parallel
