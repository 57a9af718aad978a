// SPDX-License-Identifier: Apache-2.0
// Context parallelism: what the ranks that share a stream of tokens hand to each other.
//
// Ranks hold two segments each (context_cut.h). All calls are collective, in the same order on all
// ranks of the group.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "baton/parallel/config.h"
#include "baton/parallel/context_cut.h"
#include "baton/parallel/group.h"

namespace baton::parallel {

/// How a mixer's work is shared.
enum class ContextStrategy {
  kBaton,    ///< each rank scans its segments and hands the state on
  kAllToAll, ///< each rank gets all tokens of some heads
};

/// How ranks that hand the baton see each other's keys and values.
enum class KeyExchange {
  kGather, ///< all at once
  kRing,   ///< one rank's after the other: memory does not grow with the ranks
};

struct ContextRules {
  ContextStrategy strategy = ContextStrategy::kBaton;
  KeyExchange keys = KeyExchange::kGather;
};

/// What the recipe says.
ContextRules context_rules(const ParallelConfig& config);

/// A state on its way along the stream: what a segment adds to it, and how much of it remains, in
/// both segments of a rank. fp32 or fp64.
struct SegmentStates {
  at::Tensor states_SHX;   ///< [2, H, ...]: the state that leaves for a zero state that enters
  at::Tensor log_decay_SH; ///< [2, H]: log of the factor of the state that enters; may be -inf
};

/// Which way a state goes: from the first token to the last, or, as a gradient, back.
enum class Direction { kForward, kBackward };

/// One microbatch on one rank. Functions with a gradient keep it alive until their backward pass,
/// so it lives in an intrusive pointer.
class Context : public torch::CustomClassHolder {
 public:
  /// `stream` is the layout of the whole microbatch, on the CPU, and the same on all ranks.
  Context(
      const SequenceLayout& stream,
      const Group& group,
      const ContextRules& rules,
      at::Device device);

  /// Keeps it alive in what an autograd function saves, and gives it back.
  c10::IValue keep() const;
  static const Context& kept(const c10::IValue& value);

  const ContextRules& rules() const { return rules_; }
  const Group& group() const { return group_; }
  const ContextPlan& plan() const { return plan_; }
  const ContextPart& part() const { return part_; }
  /// Of this rank's tokens, on the device.
  const SequenceLayout& layout() const { return part_.layout; }
  /// Of all tokens, on the device.
  const SequenceLayout& stream() const { return stream_; }
  /// What attention of this rank's segment 0 or 1 needs, on the device.
  const SegmentKeys& keys(std::size_t segment) const { return keys_[segment]; }

  /// What this rank's queries see, without a mask, of the keys of another, on the device.
  const UnmaskedPairs& pairs(int keys_of_rank) const {
    return pairs_[static_cast<std::size_t>(keys_of_rank)];
  }

  /// This rank's rows of a tensor [T, ...] of the stream, wherever that tensor is.
  at::Tensor own_rows(const at::Tensor& of_stream) const;

  /// The state that enters each of this rank's segments: H_0 = 0, H_{i+1} = a_i H_i + S_i. In
  /// log2(cp) messages, one after the other, in a fixed order of additions.
  at::Tensor pass_states(const SegmentStates& segments, Direction direction) const;

  /// The last K - 1 rows of each segment of x_TC, this rank's rows, go to all ranks. `gathered`
  /// [cp, 2 (K - 1), C] is for `tails_from`.
  Pending start_tails(const at::Tensor& x_TC, std::int64_t width, at::Tensor& gathered) const;
  /// The K - 1 rows of the stream before each of this rank's segments, [2, C, K - 1], zeros where
  /// its document has none.
  at::Tensor tails_from(const at::Tensor& gathered) const;
  /// Gradients of what `tails_from` gave go to all ranks. `gathered` [cp, 2, C, K - 1] is for
  /// `add_tail_gradients_`.
  Pending start_tail_gradients(const at::Tensor& gradient_SCK, at::Tensor& gathered) const;
  /// Adds them to those of the rows, dx_TC [Tr, C].
  void add_tail_gradients_(const at::Tensor& gathered, const at::Tensor& dx_TC) const;
  /// The rows that see a tail, on the device.
  const SegmentHeads& heads(std::int64_t width) const;

  /// [Tr, ...] of this rank -> [T, ...] of all in the stream's order; not differentiable.
  at::Tensor gather_rows(const at::Tensor& rows) const;
  /// The adjoint: [T, ...] -> the sum over ranks of this rank's rows, added up in fp32 (fp64).
  at::Tensor scatter_rows(const at::Tensor& of_stream) const;

  /// Rows of rank `holder`, which this rank has, go one rank up, and those of the rank before
  /// `holder` come from below.
  Pending start_ring(const at::Tensor& rows, int holder, at::Tensor& received) const;
  /// The rank whose rows have come to this rank after so many steps of the ring.
  int ring_holder(int steps) const;

  /// [Tr, cp, C] -> [T, C]: this rank's share of the columns, of all tokens. Differentiable.
  at::Tensor to_columns(const at::Tensor& rows) const;
  /// The way back: [T, C] -> [Tr, cp, C]. Differentiable.
  at::Tensor to_rows(const at::Tensor& columns) const;
  /// [Tr, G, N] -> [Tr, cp, C]: of each rank its groups, where there are fewer than ranks several
  /// ranks get the same one. One of G and cp must divide the other.
  at::Tensor share_groups(const at::Tensor& rows_TGN) const;
  /// The groups that are this rank's, as share_groups has them: the first and their number.
  std::pair<std::int64_t, std::int64_t> own_groups(std::int64_t groups) const;

 private:
  /// Which rows make a rank's tails, for one width of the convolution.
  struct Tails {
    at::Tensor places; ///< of the wanted rows among [cp, 2, K - 1] and a row of zeros behind
    /// For each segment of all ranks that begins with rows of this rank: its number among
    /// [cp, 2], this rank's rows and their places in the segment's tail.
    struct Use {
      std::int64_t segment;
      at::Tensor rows;
      at::Tensor places;
    };
    std::vector<Use> uses;
    SegmentHeads heads;
  };
  struct MoveRows;

  const Tails& tails(std::int64_t width) const;
  Tails make_tails(std::int64_t width) const;
  at::Tensor move_to_columns(const at::Tensor& rows) const;
  at::Tensor move_to_rows(const at::Tensor& columns) const;

  ContextRules rules_;
  Group group_;
  ContextPlan plan_;
  ContextPart part_;
  SequenceLayout stream_;
  std::array<SegmentKeys, 2> keys_;
  std::vector<UnmaskedPairs> pairs_; ///< by rank of the keys
  std::vector<std::int64_t> tokens_of_ranks_;
  std::int64_t own_tokens_ = 0;
  at::Device device_;
  at::Tensor place_of_token_; ///< int64 [T]: of each token of the stream, rank after rank
  at::Tensor token_of_place_; ///< the way back
  mutable std::map<std::int64_t, Tails> tails_; ///< by width, made when first asked for
};

} // namespace baton::parallel
