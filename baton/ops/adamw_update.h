// SPDX-License-Identifier: Apache-2.0
// What the kernels of AdamW share: checks, and the factors of an update.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/ops/adamw.h"
#include "baton/ops/cuda/adamw_factors.cuh"

namespace baton::ops {

/// The factors of a step. Throws where a number is out of its range.
template <class T>
AdamwFactors<T> adamw_factors(const AdamwStep& step);

extern template AdamwFactors<float> adamw_factors(const AdamwStep& step);
extern template AdamwFactors<double> adamw_factors(const AdamwStep& step);

/// The type in which a parameter is updated: fp64 for fp64, otherwise fp32.
at::ScalarType adamw_working_type(const at::Tensor& parameter);

/// The rules of `adamw_` on tensors.
void check_adamw(const at::Tensor& parameter, const at::Tensor& grad, const AdamwMoments& moments);

} // namespace baton::ops
