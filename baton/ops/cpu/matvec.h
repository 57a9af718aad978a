// SPDX-License-Identifier: Apache-2.0
// The kernel of few rows times a weight, in items that threads share.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace baton::ops::cpu {

/// All rows of an x against a weight.
struct MatvecTask {
  at::ScalarType dtype;  ///< of weight, bias and y: fp32 or bf16
  std::int64_t num_rows; ///< B
  std::int64_t depth;    ///< D
  const void* weight_FD;
  std::int64_t weight_stride;
  const void* bias_F; ///< may be null
  void* y_BF;
  std::int64_t num_outputs; ///< F
};

/// Outputs [first, last).
struct MatvecOutputs {
  std::int64_t first;
  std::int64_t last;
};

/// Each makes neighbouring outputs. Cut by shape alone.
std::int64_t matvec_items(const MatvecTask& task);

/// Makes the outputs of an item, for all rows of x, which are `place_rows`'.
MatvecOutputs run_matvec_item(const MatvecTask& task, const float* x_BD, std::int64_t item);

/// Contiguous rows [B, D] as products want them: fp32 ones as they are, bf16 ones widened into
/// `room` [B, D], in each row the values of even depths, then the others.
const float* place_rows(
    at::ScalarType dtype,
    const void* rows_BD,
    std::int64_t num_rows,
    std::int64_t depth,
    float* room);

} // namespace baton::ops::cpu
