// SPDX-License-Identifier: Apache-2.0
#include "baton/base/layout.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <ATen/ATen.h>

#include "baton/base/upload.h"

namespace baton {
namespace {

at::Tensor int32_tensor(const std::vector<std::int32_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kInt));
}

} // namespace

bool SequenceLayout::has_initial_states() const {
  return std::any_of(sequences.begin(), sequences.end(), [](const Sequence& sequence) {
    return sequence.initial_slot >= 0;
  });
}

bool SequenceLayout::has_final_states() const {
  return std::any_of(sequences.begin(), sequences.end(), [](const Sequence& sequence) {
    return sequence.final_slot >= 0;
  });
}

at::Tensor SequenceLayout::positions() const {
  if (longest <= 1 && num_tokens == num_sequences()) { // one token each
    return first_positions_B.to(at::kLong);
  }
  const at::Tensor lengths = at::diff(starts_B1).to(at::kLong);
  const at::Tensor shift =
      first_positions_B.to(at::kLong) - starts_B1.slice(0, 0, -1).to(at::kLong);
  const at::Tensor index = at::arange(num_tokens, starts_B1.options().dtype(at::kLong));
  return index + at::repeat_interleave(shift, lengths, 0, num_tokens);
}

SequenceLayout SequenceLayout::to(at::Device device) const {
  if (starts_B1.device() == device) {
    return *this;
  }
  // One copy instead of four: each costs a decoding step more time than its bytes.
  const at::Tensor packed =
      upload(at::cat({starts_B1, first_positions_B, initial_slots_B, final_slots_B}), device);
  const std::int64_t B = num_sequences();
  const std::vector<at::Tensor> parts = packed.split_with_sizes({B + 1, B, B, B});
  SequenceLayout moved = *this;
  moved.starts_B1 = parts[0];
  moved.first_positions_B = parts[1];
  moved.initial_slots_B = parts[2];
  moved.final_slots_B = parts[3];
  return moved;
}

SequenceLayout make_layout(std::vector<SequenceLayout::Sequence> sequences) {
  SequenceLayout layout;
  std::vector<std::int32_t> starts{0};
  std::vector<std::int32_t> first_positions;
  std::vector<std::int32_t> initial_slots;
  std::vector<std::int32_t> final_slots;
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  for (const SequenceLayout::Sequence& sequence : sequences) {
    TORCH_CHECK(sequence.length >= 0, "sequence length must not be negative: ", sequence.length);
    TORCH_CHECK(
        sequence.first_position >= 0 && sequence.first_position + sequence.length <= kLimit,
        "positions must lie in [0, 2^31): ",
        sequence.first_position,
        " + ",
        sequence.length);
    TORCH_CHECK(
        sequence.initial_slot >= -1 && sequence.final_slot >= -1,
        "state slots must be -1 (none) or an index: ",
        sequence.initial_slot,
        ", ",
        sequence.final_slot);
    layout.num_tokens += sequence.length;
    TORCH_CHECK(layout.num_tokens <= kLimit, "a layout holds less than 2^31 tokens");
    layout.longest = std::max(layout.longest, sequence.length);
    starts.push_back(static_cast<std::int32_t>(layout.num_tokens));
    first_positions.push_back(static_cast<std::int32_t>(sequence.first_position));
    initial_slots.push_back(sequence.initial_slot);
    final_slots.push_back(sequence.final_slot);
  }
  layout.starts_B1 = int32_tensor(starts);
  layout.first_positions_B = int32_tensor(first_positions);
  layout.initial_slots_B = int32_tensor(initial_slots);
  layout.final_slots_B = int32_tensor(final_slots);
  layout.sequences = std::move(sequences);
  return layout;
}

SequenceLayout make_layout_from_lengths(const std::vector<std::int64_t>& lengths) {
  std::vector<SequenceLayout::Sequence> sequences;
  sequences.reserve(lengths.size());
  for (const std::int64_t length : lengths) {
    sequences.push_back({.length = length});
  }
  return make_layout(std::move(sequences));
}

std::vector<std::int64_t> checked_starts(const at::Tensor& starts_B1, std::int64_t num_tokens) {
  TORCH_CHECK(
      starts_B1.dim() == 1 && starts_B1.scalar_type() == at::kInt && starts_B1.size(0) >= 1,
      "starts must be an int32 vector of at least one entry, got ",
      starts_B1.scalar_type(),
      " ",
      starts_B1.sizes());
  const at::Tensor host = starts_B1.cpu().contiguous();
  const auto* data = host.const_data_ptr<std::int32_t>();
  std::vector<std::int64_t> starts(data, data + host.size(0));
  TORCH_CHECK(
      starts.front() == 0 && starts.back() == num_tokens &&
          std::is_sorted(starts.begin(), starts.end()),
      "starts must rise from 0 to the number of tokens (",
      num_tokens,
      "), got ",
      starts.front(),
      " ... ",
      starts.back());
  return starts;
}

} // namespace baton
