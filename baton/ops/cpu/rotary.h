// SPDX-License-Identifier: Apache-2.0
// The kernel of rotary: the heads of some tokens.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace baton::ops {

/// One call; strides count values. The output is dense.
struct RotaryHeads {
  c10::ScalarType dtype;
  const void* x;
  void* y;
  const std::int64_t* positions;
  const double* frequencies;
  std::int64_t pairs;
  std::int64_t num_heads;
  std::int64_t head_dim;
  std::int64_t token_stride;
  std::int64_t head_stride;
  double attention_factor;
  bool interleaved;
};

/// Turns the heads of tokens [begin, end), on this thread.
void rotary_tokens(const RotaryHeads& task, std::int64_t begin, std::int64_t end);

} // namespace baton::ops
