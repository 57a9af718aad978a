// SPDX-License-Identifier: Apache-2.0
// Cuts and joins documents into runs of T tokens: the loader's arithmetic, without tensors or
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "baton/data/blend.h"
#include "baton/data/document_order.h"
#include "baton/data/loader_state.h"

namespace baton {

constexpr std::int64_t kNoLabel = -100;

/// A microbatch as plain numbers.
struct PackedTokens {
  struct Piece {
    std::size_t set = 0; ///< of the blend
    std::int64_t document = 0;
    std::int64_t first = 0; ///< position of its first token within the document
    std::int64_t length = 0;
  };

  std::int64_t index = 0;
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> labels; ///< kNoLabel behind the last token of a document
  std::vector<float> mask;          ///< of the labels; empty when no dataset has a mask
  std::vector<Piece> pieces;
};

/// Which tokens a packer visits.
struct PackerConfig {
  std::int64_t tokens_per_microbatch = 0;
  std::int64_t vocab_size = 0;
  /// Shuffled epochs without end by this seed; absent: the datasets' order, once.
  std::optional<std::uint64_t> shuffle_seed;
};

/// Advances a LoaderState over a blend. It has no place of its own.
///
/// The set of each document is the one that has handed out the fewest tokens in proportion to its
/// share, so at any moment no set is ahead of its share by more than its longest document. It is a
/// function of the state alone.
class Packer {
 public:
  /// Throws Error for numbers that are not positive.
  Packer(std::shared_ptr<const Blend> blend, const PackerConfig& config);

  /// The place of the first token.
  LoaderState start() const;

  /// The microbatch at `state`, which moves behind it. Shorter than T, or empty, only at the end of
  /// unshuffled data. When it throws, `state` is as before.
  PackedTokens pack(LoaderState& state) const;

  /// Moves `state` behind `count` microbatches without reading their tokens.
  void skip(LoaderState& state, std::int64_t count) const;

  /// Throws Error when `state` is not a place in this blend.
  void check(const LoaderState& state) const;

 private:
  // Moves the sets' places by `wanted` tokens, less at the end of unshuffled data; appends the
  // pieces of documents that were passed unless `pieces` is null.
  void advance(LoaderState& state, std::int64_t wanted, std::vector<PackedTokens::Piece>* pieces)
      const;
  std::optional<std::size_t> next_set(const LoaderState& state) const;
  bool exhausted(const SetState& set) const;
  DocumentOrder order(std::size_t set, std::int64_t epoch) const;
  void check_set(std::size_t set, const SetState& state) const;
  void read(const PackedTokens::Piece& piece, PackedTokens& packed) const;

  std::shared_ptr<const Blend> blend_;
  PackerConfig config_;
};

} // namespace baton
