// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_snapshots.h"

#include <ATen/ATen.h>

#include "baton/base/layout.h"
#include "baton/ops/ssd.h"
#include "baton/ops/ssd_state.h"

namespace baton::ops {
namespace {

// Starts of the pieces into which the offsets cut the sequences; sequence b has one more piece than
// offsets.
at::Tensor cut_starts(
    const at::Tensor& starts_B1,
    std::int64_t num_tokens,
    const std::vector<std::vector<std::int64_t>>& offsets) {
  const std::vector<std::int64_t> starts = checked_starts(starts_B1.cpu(), num_tokens);
  TORCH_CHECK(
      offsets.size() + 1 == starts.size(),
      "there must be one list of offsets a sequence: ",
      offsets.size(),
      " lists, ",
      starts.size() - 1,
      " sequences");
  std::vector<std::int64_t> cuts{0};
  for (std::size_t b = 0; b < offsets.size(); ++b) {
    const std::int64_t length = starts[b + 1] - starts[b];
    std::int64_t before = 0;
    for (const std::int64_t offset : offsets[b]) {
      TORCH_CHECK(
          offset >= before && offset <= length,
          "offsets of sequence ",
          b,
          " must not fall and must lie in [0, ",
          length,
          "]: ",
          offset,
          " after ",
          before);
      cuts.push_back(starts[b] + offset);
      before = offset;
    }
    cuts.push_back(starts[b + 1]);
  }
  return at::tensor(cuts, at::TensorOptions().dtype(at::kInt)).to(starts_B1.device());
}

} // namespace

SsdSnapshotOutput ssd_snapshots(
    const SsdInputs& inputs,
    const SsdStart& start,
    const std::vector<std::vector<std::int64_t>>& offsets) {
  const SsdSizes sizes = checked_ssd_inputs(inputs, start);
  SsdInputs cut = inputs;
  cut.starts = cut_starts(inputs.starts, sizes.T, offsets);
  const SsdStateOutput alone = ssd_state(cut);
  const at::Tensor decay = alone.log_decay_BH.exp().unsqueeze(-1).unsqueeze(-1);
  const at::Tensor entering = at::zeros_like(alone.states_BHPN);
  const std::vector<std::int64_t> slots =
      start.states_SHPN.has_value()
          ? checked_slots(
                start.slots_B.has_value() ? std::optional(start.slots_B->cpu()) : std::nullopt,
                sizes.B,
                start.states_SHPN->size(0))
          : std::vector<std::int64_t>(offsets.size(), -1);
  std::vector<std::int64_t> last_pieces, other_pieces;
  std::int64_t piece = 0;
  for (std::size_t b = 0; b < offsets.size(); ++b) {
    if (slots[b] >= 0) {
      entering.select(0, piece).copy_(start.states_SHPN->select(0, slots[b]));
    }
    for (std::size_t i = 0; i < offsets[b].size(); ++i, ++piece) {
      other_pieces.push_back(piece);
      const at::Tensor leaving =
          decay.select(0, piece) * entering.select(0, piece) + alone.states_BHPN.select(0, piece);
      entering.select(0, piece + 1).copy_(leaving);
    }
    last_pieces.push_back(piece++);
  }
  const SsdOutput output = ssd(cut, {entering, std::nullopt});
  const auto pick = [&](const std::vector<std::int64_t>& pieces) {
    const at::Tensor index = at::tensor(pieces, at::TensorOptions().dtype(at::kLong));
    return output.final_states_BHPN.index_select(0, index.to(entering.device()));
  };
  return {output.y_THP, pick(last_pieces), pick(other_pieces)};
}

} // namespace baton::ops
