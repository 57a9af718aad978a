// SPDX-License-Identifier: Apache-2.0
// The kernel of rms_norm: some of the rows of a call.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace baton::ops {

/// Rows of one call; strides count values.
struct RmsNormRows {
  c10::ScalarType dtype;
  c10::ScalarType weight_dtype; ///< as dtype, or that of the sums, as it is in the backward
  const void* x;
  const void* weight;
  const void* dy; ///< backward only
  void* out;      ///< y, or dx
  std::int64_t channels;
  std::int64_t x_stride;
  std::int64_t dy_stride;
  double eps;
};

/// y of rows [begin, end), on this thread.
void rms_norm_rows(const RmsNormRows& task, std::int64_t begin, std::int64_t end);

} // namespace baton::ops
