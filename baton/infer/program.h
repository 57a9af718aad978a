// SPDX-License-Identifier: Apache-2.0
// Batches of tokens to layouts, slots and pages: one pass of the model over sequences in a cache.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/infer/state_cache.h"
#include "baton/model/hybrid_model.h"

namespace baton::infer {

/// Tokens that continue one sequence of the cache.
struct BatchItem {
  std::int32_t slot = 0; ///< as `StateCache::acquire` gave it
  std::vector<std::int64_t> tokens;
};

class Program {
 public:
  /// Both must outlive the program. Puts the model's parameters on huge pages, since a token reads
  /// them all.
  Program(const model::HybridModel& model, StateCache& cache);

  /// Runs the items and advances their sequences in the cache. Returns hidden_TD of all their
  /// tokens, in order. Takes the step form when every item holds one token. Throws, with the states
  /// as they were, when the cache is full.
  at::Tensor run(const std::vector<BatchItem>& items);

  /// As `run`, then logits [items, V] in fp32 (fp64 for an fp64 model) behind each item's last
  /// token.
  at::Tensor last_logits(const std::vector<BatchItem>& items);

 private:
  const model::HybridModel& model_;
  StateCache& cache_;
};

} // namespace baton::infer
