// SPDX-License-Identifier: Apache-2.0
// Cuts and joins documents into runs of T tokens: the loader's arithmetic, without tensors or
// threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "baton/data/document_order.h"
#include "baton/data/indexed_dataset.h"
#include "baton/data/loader_state.h"

namespace baton {

constexpr std::int64_t kNoLabel = -100;

/// A microbatch as plain numbers.
struct PackedTokens {
  struct Piece {
    std::int64_t document = 0;
    std::int64_t first = 0; ///< position of its first token within the document
    std::int64_t length = 0;
  };

  std::int64_t index = 0;
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> labels; ///< kNoLabel behind the last token of a document
  std::vector<float> mask;          ///< of the labels; empty when the dataset has no mask
  std::vector<Piece> pieces;
};

/// Which tokens a packer visits.
struct PackerConfig {
  std::int64_t tokens_per_microbatch = 0;
  std::int64_t vocab_size = 0;
  /// Shuffled epochs without end by this seed; absent: the dataset's order, once.
  std::optional<std::uint64_t> shuffle_seed;
};

/// Advances a LoaderState over a dataset. It has no place of its own.
class Packer {
 public:
  /// `dataset` must outlive the packer. Throws Error for a dataset without tokens and for numbers
  /// that are not positive.
  Packer(const IndexedDataset& dataset, const PackerConfig& config);

  /// The microbatch at `state`, which moves behind it. Shorter than T, or empty, only at the end of
  /// unshuffled data. When it throws, `state` is as before.
  PackedTokens pack(LoaderState& state) const;

  /// Moves `state` behind `count` microbatches without reading their tokens.
  void skip(LoaderState& state, std::int64_t count) const;

  /// Throws Error when `state` is not a place in the dataset.
  void check(const LoaderState& state) const;

 private:
  // Moves epoch, position, offset and tokens by `wanted` tokens, less at the end of unshuffled
  // data; appends the pieces of documents that were passed unless `pieces` is null.
  void advance(LoaderState& state, std::int64_t wanted, std::vector<PackedTokens::Piece>* pieces)
      const;
  DocumentOrder order(std::int64_t epoch) const;
  void read(const PackedTokens::Piece& piece, PackedTokens& packed) const;

  const IndexedDataset* dataset_;
  PackerConfig config_;
};

} // namespace baton
