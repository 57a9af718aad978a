// SPDX-License-Identifier: Apache-2.0
// Dropout whose mask is a function of a key and the element's place, never of a rank or a thread.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "baton/base/random.h"

namespace baton::ops {

/// x [T, D] with each element zeroed with probability p and the others scaled by 1 / (1 - p).
/// Element (t, c) is kept when `uniform_at(key, (first_row + t) * D + c) >= p`; the gradient uses the
/// same mask. Throws unless 0 <= p < 1.
at::Tensor dropout(const at::Tensor& x_TD, RandomKey key, std::int64_t first_row, double p);

} // namespace baton::ops
