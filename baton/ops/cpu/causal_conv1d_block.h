// SPDX-License-Identifier: Apache-2.0
// The convolution of a block of tokens, forward and backward, vectors running over channels.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace baton::ops {

/// Tokens [begin, end) of one sequence. Pointers are to the sequence's first row; strides count
/// values. Sums (weight, bias, gradients of parameters and states) are fp32, or fp64 for fp64.
struct ConvBlock {
  c10::ScalarType dtype;
  std::int64_t channels;
  std::int64_t width; ///< K
  bool silu;
  const void* weight_KC;
  const void* bias_C;
  const void* x;
  std::int64_t x_stride;
  const void* history;         ///< K-1 rows before the first token
  std::int64_t history_stride; ///< 0: all of them are one row of zeros
  std::int64_t length;
  std::int64_t begin;
  std::int64_t end;
  void* out; ///< y, or dx; dense rows
  // Backward only.
  const void* dy;
  std::int64_t dy_stride;
  const void* dfinal_KC; ///< gradient of the final state, K-1 rows; may be null
  void* dhistory_KC;     ///< gradient of the history, K-1 rows; null when nobody asks
  void* dparameters_KC;  ///< K rows for the weight, one for the bias; added to
  void* scratch;         ///< end - begin + K - 1 rows
};

void convolve_block(const ConvBlock& block);

void convolve_block_backward(const ConvBlock& block);

} // namespace baton::ops
