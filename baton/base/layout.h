// SPDX-License-Identifier: Apache-2.0
// Where the sequences of a packed token stream begin, and which state slots they use.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton {

/// Layout of B sequences packed into T tokens, one after the other, without padding.
///
/// Device tensors are what operators and kernels read; the host copy serves checks, CPU kernels and
/// per-sequence loops. A sequence may be empty. Entries that a captured graph does not use are
/// empty sequences at the end.
struct SequenceLayout {
  /// One sequence, as the host describes it.
  struct Sequence {
    std::int64_t length = 0;
    std::int64_t first_position = 0; ///< position of its first token within its document
    std::int32_t initial_slot = -1;  ///< state slot to start from; -1 starts from zero
    std::int32_t final_slot = -1;    ///< state slot that receives the final state; -1 drops it
  };

  at::Tensor starts_B1;            ///< int32 [B + 1], cumulative lengths, starts at 0, ends at T
  at::Tensor first_positions_B;    ///< int32 [B]
  at::Tensor initial_slots_B;      ///< int32 [B], -1 none
  at::Tensor final_slots_B;        ///< int32 [B], -1 none
  std::int64_t num_tokens = 0;     ///< T
  std::int64_t longest = 0;        ///< largest length
  std::vector<Sequence> sequences; ///< host copy, in stream order

  std::int64_t num_sequences() const { return static_cast<std::int64_t>(sequences.size()); }
  bool has_initial_states() const;
  bool has_final_states() const;

  /// Position of every token within its document, int64 [T].
  at::Tensor positions() const;

  /// The same layout, built on the CPU, with its tensors on `device`; does not wait for it.
  SequenceLayout to(at::Device device) const;
};

/// Builds a layout on the CPU. Throws when a length, position or slot is out of range.
SequenceLayout make_layout(std::vector<SequenceLayout::Sequence> sequences);

/// B sequences of these lengths that start at position 0 and use no state slots.
SequenceLayout make_layout_from_lengths(const std::vector<std::int64_t>& lengths);

/// Reads a `starts` tensor on the host and checks it: int32, one dimension, rising from 0 to
/// `num_tokens`. What a CPU operator calls first.
std::vector<std::int64_t> checked_starts(const at::Tensor& starts_B1, std::int64_t num_tokens);

} // namespace baton
