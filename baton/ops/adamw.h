// SPDX-License-Identifier: Apache-2.0
// One AdamW update of one parameter, in place and in one pass over memory.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// The numbers of one AdamW step that all parameters of a group share.
struct AdamwStep {
  double lr = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.0;
  std::int64_t step = 1;   ///< counts from 1; used by the bias corrections
  double grad_scale = 1.0; ///< multiplies the gradient first; clipping lives here
};

/// What AdamW keeps of one parameter, each in the parameter's shape.
struct AdamwMoments {
  at::Tensor exp_avg;               ///< first moment
  at::Tensor exp_avg_sq;            ///< second moment
  std::optional<at::Tensor> master; ///< fp32 weights behind a bf16 parameter
};

/// AdamW with decoupled decay (Loshchilov and Hutter, 2019, algorithm 2):
///     g = grad_scale * grad;  w = w * (1 - lr * weight_decay)
///     m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
///     w = w - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
/// All in fp32, in fp64 for an fp64 parameter. With a master the update reads and writes the master
/// and the parameter receives its rounding (to nearest even).
///
/// `parameter` is fp64, fp32 or bf16 and contiguous, as are the moments (fp64 or fp32); `grad` has
/// the parameter's dtype, or is fp32 where the parameter is bf16. Throws otherwise, and when grad
/// mode is on while an argument requires grad.
void adamw_(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const AdamwMoments& moments,
    const AdamwStep& step);

} // namespace baton::ops
