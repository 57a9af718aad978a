// SPDX-License-Identifier: Apache-2.0
// The numbers of an AdamW update; the same for host and device.
#pragma once

namespace baton {

/// Factors of the update, computed in fp64 and rounded once to the working type.
template <typename T>
struct AdamwFactors {
  T grad_scale;
  T keep; ///< 1 - lr * weight_decay
  T beta1;
  T rest1; ///< 1 - beta1
  T beta2;
  T rest2;           ///< 1 - beta2
  T root_correction; ///< 1 / sqrt(1 - beta2^step)
  T eps;
  T step_size; ///< lr / (1 - beta1^step)
};

} // namespace baton
