// SPDX-License-Identifier: Apache-2.0
// How CPU kernels cut rows into blocks: by size alone, so that sums do not depend on threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Rows of a block hold about this many values: enough work for a thread, few partial sums.
inline constexpr std::int64_t kValuesPerBlock = 65536;

inline std::int64_t rows_per_block(std::int64_t channels) {
  return std::max<std::int64_t>(1, kValuesPerBlock / std::max<std::int64_t>(1, channels));
}

/// The dtype in which values of a tensor are computed and summed.
inline at::ScalarType sum_dtype(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

} // namespace baton::ops
