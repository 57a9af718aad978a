// SPDX-License-Identifier: Apache-2.0
// The kernel of one token of the convolution, in items that threads share.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace baton::ops {

/// One token of one sequence: its pointers, each at channel 0.
struct ConvStep {
  c10::ScalarType dtype;           ///< of x and y
  c10::ScalarType parameter_dtype; ///< as dtype, or fp32 beside bf16
  c10::ScalarType state_dtype;     ///< the same
  std::int64_t width;              ///< K
  std::int64_t channels;           ///< C
  bool silu;
  const void* x;
  const void* weight_CK;
  const void* bias; ///< may be null
  void* state_CK;   ///< [C, K-1]; null for a sequence without one
  void* y;
};

/// Channels of an item: worth a thread, and a multiple of every vector.
inline constexpr std::int64_t kConvStepChannels = 512;

inline std::int64_t conv_step_items(std::int64_t channels) {
  return (channels + kConvStepChannels - 1) / kConvStepChannels;
}

void run_conv_step_item(const ConvStep& step, std::int64_t item);

} // namespace baton::ops
