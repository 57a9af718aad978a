// SPDX-License-Identifier: Apache-2.0
// The states of sequences that are being generated: fixed blocks by slot, growing ones in pages.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/state_spec.h"

namespace baton::infer {

struct StateCacheConfig {
  std::int64_t num_slots = 1;  ///< sequences that the cache holds at once
  std::int64_t num_pages = 0;  ///< of all growing states; not used when no state grows
  std::int64_t page_size = 16; ///< tokens a page
  at::Device device = at::kCPU;
};

/// Pages that `num_sequences` sequences of up to `max_tokens` tokens need at most.
std::int64_t
pages_needed(std::int64_t num_sequences, std::int64_t max_tokens, std::int64_t page_size);

/// Allocates what the layers of a model published, knowing none of them, and hands out slots and
/// pages. A slot is one sequence's: its block [slot] of every fixed tensor, and a list of pages
/// that holds for all growing tensors alike (page 7 is block [7] of each layer's keys and values).
///
/// Memory is allocated once; acquiring, growing and releasing move numbers. Not safe for calls from
/// several threads at once.
class StateCache {
 public:
  /// Tensors are [slots, shape...] and [pages, page_size, shape...]. Throws for sizes that are out
  /// of range and for two states of one name.
  StateCache(const std::vector<nn::StateSpec>& specs, const StateCacheConfig& config);

  /// Takes a free slot with zero states and no tokens. Throws when all are taken.
  std::int32_t acquire();

  /// Gives a slot and its pages back.
  void release(std::int32_t slot);

  /// Makes room for `num_tokens` more tokens of a sequence, and counts them. Throws, with nothing
  /// changed, when the pages do not suffice.
  void grow(std::int32_t slot, std::int64_t num_tokens);

  /// Whether `grow` would succeed.
  bool has_room(std::int32_t slot, std::int64_t num_tokens) const;

  /// Tokens of a sequence.
  std::int64_t length(std::int32_t slot) const;

  /// What a forward pass over these sequences takes, in their order. The page table is int32
  /// [B, pages of the longest] on the cache's device; entries behind a sequence's own pages are -1.
  /// Tensors are shared with the cache: the pass writes into it. Throws for a slot named twice.
  nn::CacheView view(std::span<const std::int32_t> slots) const;

  std::int64_t num_free_slots() const { return static_cast<std::int64_t>(free_slots_.size()); }
  std::int64_t num_free_pages() const { return static_cast<std::int64_t>(free_pages_.size()); }

  /// Memory of all state tensors, in bytes.
  std::int64_t num_bytes() const;

 private:
  struct Sequence {
    bool taken = false;
    std::int64_t length = 0;
    std::vector<std::int32_t> pages;
  };

  const Sequence& sequence(std::int32_t slot) const;
  std::int64_t missing_pages(const Sequence& sequence, std::int64_t num_tokens) const;

  StateCacheConfig config_;
  bool paged_ = false;                   // whether any state grows
  nn::CacheView tensors_;                // without a page table
  std::vector<at::Tensor> fixed_;        // those of `tensors_` that a slot's start clears
  std::vector<Sequence> sequences_;      // by slot
  std::vector<std::int32_t> free_slots_; // taken from the back
  std::vector<std::int32_t> free_pages_; // taken from the back
};

} // namespace baton::infer
