// SPDX-License-Identifier: Apache-2.0
// The kernel of gated_norm: some of the rows of a call.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

#include "baton/ops/gated_norm.h"

namespace baton::ops {

/// Rows of one call; strides count values. `weight` is null for no norm.
struct GatedNormRows {
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  /// As dtype, or that of the sums, as it is in the backward.
  c10::ScalarType weight_dtype = c10::ScalarType::Undefined;
  const void* y = nullptr;
  const void* z = nullptr;
  const void* weight = nullptr;
  std::int64_t channels = 0;
  std::int64_t y_stride = 0;
  std::int64_t z_stride = 0;
  GatedNormConfig config;
  const void* dout = nullptr; ///< this and what follows: backward only
  std::int64_t dout_stride = 0;
  void* dy = nullptr;
  void* dz = nullptr;
};

/// Rows [begin, end) of the output, dense from `out` on, on this thread.
void gated_norm_rows(const GatedNormRows& task, void* out, std::int64_t begin, std::int64_t end);

} // namespace baton::ops
