// SPDX-License-Identifier: Apache-2.0
// One prefill that also returns the states at given token offsets, as prefix caches need them.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd_inputs.h"

namespace baton::ops {

struct SsdSnapshotOutput {
  at::Tensor y_THP;
  at::Tensor final_states_BHPN;
  at::Tensor snapshots_EHPN; ///< one state per offset, in the order of sequences, then of offsets
};

/// `ssd`, and the states after the first `offsets[b][i]` tokens of every sequence b. Offsets do not
/// fall and lie in [0, length]; 0 asks for the initial state. Made of `ssd_state` and `ssd` on the
/// stream cut at the offsets, so it costs about a third more than `ssd`. Reads `starts` on the
/// host. Inference only: an input that requires grad while grad mode is on is refused.
SsdSnapshotOutput ssd_snapshots(
    const SsdInputs& inputs,
    const SsdStart& start,
    const std::vector<std::vector<std::int64_t>>& offsets);

} // namespace baton::ops
