// SPDX-License-Identifier: Apache-2.0
// Stores the states of a batch in the slots of a cache.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// cache[slots[b]] = values[b] for every b whose slot is not -1, converted to the cache's dtype.
/// cache [S, ...], slots_B int32, values [B, ...]. Throws when a slot is out of range or
/// given twice, and in gradient mode when an argument requires a gradient.
void write_slots_(const at::Tensor& cache, const at::Tensor& slots_B, const at::Tensor& values);

/// What every kernel of `write_slots_` checks first.
void check_write_slots(
    const at::Tensor& cache,
    const at::Tensor& slots_B,
    const at::Tensor& values);

} // namespace baton::ops
