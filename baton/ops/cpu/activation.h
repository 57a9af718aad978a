// SPDX-License-Identifier: Apache-2.0
// The kernels of activations: some of the rows of a call.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace baton::ops {

/// Rows of one call; strides count values.
struct ActivationRows {
  c10::ScalarType dtype;
  const void* x;
  const void* dy;        ///< backward only
  void* out;             ///< y, or dx
  std::int64_t channels; ///< of y
  std::int64_t x_stride;
  std::int64_t dy_stride;
  std::int64_t out_stride;
};

/// y of rows [begin, end), on this thread.
void squared_relu_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end);
void swiglu_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end);

} // namespace baton::ops
