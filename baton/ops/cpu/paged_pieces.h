// SPDX-License-Identifier: Apache-2.0
// Attention over pages in pieces that run beside each other and are merged behind them.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/ops/cpu/page_tables.h"

namespace baton::ops::cpu {

/// Sums of exp(score - maximum) * value, of R rows.
template <class Sum>
struct RowSums {
  Sum* out_RP;
  Sum* maximum_R;
  Sum* sum_R;
  std::int64_t channels;

  /// Brings both to the larger maximum and adds. Rows that `other` did not see stay as they are.
  void add(const RowSums& other, std::int64_t num_rows) const;
};

/// Storage for the sums of many rows.
template <class Sum>
class RowSumStorage {
 public:
  RowSumStorage(std::int64_t num_rows, std::int64_t channels)
      : channels_(channels), out_(num_rows * channels), maximum_(num_rows), sum_(num_rows) {}

  RowSums<Sum> at(std::int64_t row) {
    return {out_.data() + row * channels_, maximum_.data() + row, sum_.data() + row, channels_};
  }

 private:
  std::int64_t channels_;
  std::vector<Sum> out_;
  std::vector<Sum> maximum_;
  std::vector<Sum> sum_;
};

/// Query rows of some key heads, over some splits of the keys.
struct PagedPiece {
  std::int64_t sequence;
  std::int64_t first_head; ///< of the key heads
  std::int64_t num_heads;
  std::int64_t first_token; ///< within the packed queries
  std::int64_t num_tokens;
  std::int64_t first_split;
  std::int64_t last_split;
  std::int64_t row; ///< of its sums among all pieces' sums
};

/// Pieces of one block of queries stand side by side, in the order of their splits. A sequence with
/// few queries gets a piece a split with several heads, whose rows lie side by side in memory; one
/// with many has enough blocks of queries, whose pieces take all splits of one head. Both add in
/// the same order, so the choice is not seen in the results.
struct PagedPlan {
  std::vector<PagedPiece> pieces;
  std::vector<std::int64_t> blocks; ///< first piece of each block of queries, and the end
  std::int64_t num_rows = 0;
};

/// `group` query heads read one key head.
PagedPlan
make_paged_plan(const PagedSequences& sequences, std::int64_t num_key_heads, std::int64_t group);

/// Attention of T tokens' queries [T, Hq, P] over pages with neighbouring channels. Queries and
/// keys are in their places first, then come all pieces, then all blocks; the items of each may run
/// beside each other.
template <class Sum>
class PagedPieces {
 public:
  PagedPieces(
      const at::Tensor& k_pages,
      const at::Tensor& v_pages,
      PagedSequences sequences,
      std::int64_t num_heads);

  std::int64_t num_tokens() const { return sequences_.starts.back(); }
  std::int64_t num_pieces() const { return static_cast<std::int64_t>(plan_.pieces.size()); }
  std::int64_t num_blocks() const { return static_cast<std::int64_t>(plan_.blocks.size()) - 1; }

  /// Stores `scale` times one head's query [P].
  template <class T>
  void set_query(std::int64_t token, std::int64_t head, const T* values, double scale);
  /// The sums of one piece, split by split.
  void attend(std::int64_t piece);
  /// The results of one block among out [T, Hq, P].
  template <class T>
  void merge(std::int64_t block, T* out_THP);

 private:
  void attend_split(
      const PagedPiece& piece,
      const std::vector<std::int64_t>& visible_R,
      std::int64_t split,
      const RowSums<Sum>& sums) const;

  at::Tensor k_pages_;
  at::Tensor v_pages_;
  PagedSequences sequences_;
  std::int64_t num_heads_; ///< of queries
  std::int64_t group_;
  std::int64_t channels_;
  PagedPlan plan_;
  RowSumStorage<Sum> storage_;
  std::vector<Sum> q_KTGP_; ///< key heads, tokens, their query heads, channels
};

} // namespace baton::ops::cpu
