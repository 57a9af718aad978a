// SPDX-License-Identifier: Apache-2.0
// The sum of squares of a tensor, for norms of gradients and parameters.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Sum of x^2 over all values of `x` (fp64, fp32 or bf16, any shape): fp64, no dims. Squares and
/// sums are fp64, so that fp32 and bf16 values cannot overflow and the sum is finite exactly when
/// every value is. Blocks of a fixed size are added in a fixed tree: equal bits for any thread
/// count. The gradient is 2 * x.
at::Tensor sum_squares(const at::Tensor& x);

} // namespace baton::ops
