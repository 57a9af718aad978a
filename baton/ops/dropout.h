// SPDX-License-Identifier: Apache-2.0
// Dropout whose mask is a function of a key and the element's place, never of a rank or a thread.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "baton/base/random.h"

namespace baton::ops {

/// x [T, D] with each element zeroed with probability p and the others scaled by 1 / (1 - p).
///
/// Element (t, c) has the index i = (first_row + t) * D + c. It is kept when the upper 24 bits of
/// word i % 4 of `philox(key, i / 4)`, as a number in [0, 1), are not below p; the gradient uses
/// the same mask. fp64, fp32 or bf16; rows may lie apart. Registered as `baton::dropout`. Throws
/// unless 0 <= p < 1.
at::Tensor dropout(const at::Tensor& x_TD, RandomKey key, std::int64_t first_row, double p);

/// What every kernel of `dropout` checks first.
void check_dropout(const at::Tensor& x_TD, std::int64_t first_row, double p);

} // namespace baton::ops
