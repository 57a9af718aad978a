// SPDX-License-Identifier: Apache-2.0
// Packs documents into microbatches of a fixed number of tokens, in a reproducible order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/base/layout.h"
#include "baton/data/blend.h"
#include "baton/data/indexed_dataset.h"
#include "baton/data/loader_state.h"
#include "baton/data/packer.h"

namespace baton {

/// T tokens of one or more documents, on the CPU as loaders make them.
struct Microbatch {
  std::int64_t index = 0; ///< in the global order, over all ranks and epochs
  at::Tensor tokens_T;    ///< int64
  at::Tensor labels_T;    ///< int64: the next token of the same document, -100 where there is none
  /// fp32, 0 or 1: whether the loss counts the label. Absent when the data has no mask.
  std::optional<at::Tensor> mask_T;
  SequenceLayout layout; ///< a sequence for each piece of a document; a rest starts at its offset
  std::int64_t targets = 0; ///< labels that are not -100 and not masked

  /// The same with its tensors on `device`; does not wait for it.
  Microbatch to(at::Device device) const;
};

/// What a training loader needs beyond its data.
struct LoaderConfig {
  std::int64_t tokens_per_microbatch = 0;
  std::int64_t vocab_size = 0; ///< ids must lie below
  std::uint64_t seed = 0;
  /// Of each `count` blocks of `block` microbatches, such as those of a step, rank takes block
  /// `rank` and passes over the others without reading them.
  std::int64_t rank = 0;
  std::int64_t count = 1;
  std::int64_t block = 1;
  int prefetch = 4; ///< microbatches made ahead by a background thread
};

/// Endless microbatches of exactly T tokens over shuffled documents of a blend. Each epoch of a set
/// has its own order and hands out every token once; the next epoch begins in the same microbatch.
/// A document that does not fit is cut, and its rest begins the next microbatch as a sequence of
/// its own.
///
/// The microbatches are a function of (blend, T, seed, index) alone: neither the ranks nor the
/// background thread nor the place where a run was resumed changes a bit. One thread calls a
/// loader.
class Loader {
 public:
  Loader(std::shared_ptr<const Blend> blend, const LoaderConfig& config);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// This rank's next microbatch. What goes wrong while it is made is thrown here, and the state
  /// stays.
  Microbatch next();

  /// The place behind the last block of each rank, the same on all of them; within a block, the
  /// place behind this rank's last microbatch. A loader that restores the place behind a block
  /// continues as this one would, with any number of ranks.
  const LoaderState& state() const { return state_; }

  /// Throws Error when the state belongs to other data, other shares or another seed.
  void restore(const LoaderState& state);

 private:
  class Prefetcher;

  LoaderConfig config_;
  Packer packer_;
  LoaderState state_;
  std::unique_ptr<Prefetcher> prefetcher_; // begun by the first call of next()
};

/// The documents of a dataset once, in its own order, for evaluation. The last microbatch may be
/// shorter.
class EvalLoader {
 public:
  EvalLoader(
      std::shared_ptr<const IndexedDataset> dataset,
      std::int64_t tokens_per_microbatch,
      std::int64_t vocab_size);

  /// The next microbatch, or nothing at the end.
  std::optional<Microbatch> next();

  /// Begins again.
  void rewind() { state_ = packer_.start(); }

 private:
  Packer packer_;
  LoaderState state_;
};

} // namespace baton
