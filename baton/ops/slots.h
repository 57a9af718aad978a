// SPDX-License-Identifier: Apache-2.0
// State slots as operators receive them.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Throws unless `slots` is int32 of one dim with `count` entries.
void check_slots(const char* name, const at::Tensor& slots, const c10::SymInt& count);

/// Throws unless the values of each slot of `states` [S, ...] lie side by side in their order.
void check_dense_slots(const at::Tensor& states);

/// The slots on the host. Throws when one lies outside [-1, num_slots).
std::vector<std::int32_t> checked_slots(const at::Tensor& slots, std::int64_t num_slots);

/// As `checked_slots`; throws also when two entries name the same slot, which could not both be
/// written.
std::vector<std::int32_t> checked_distinct_slots(const at::Tensor& slots, std::int64_t num_slots);

} // namespace baton::ops
