// SPDX-License-Identifier: Apache-2.0
// Checks that the operators on rows of channels share.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Throws unless `tensor` is fp64, fp32 or bf16.
void check_activation(const char* name, const at::Tensor& tensor);

/// Throws unless `tensor` is an activation with the shape, dtype and device of `reference`.
void check_same(
    const char* name,
    const at::Tensor& tensor,
    const char* reference_name,
    const at::Tensor& reference);

/// Throws unless `weight` has the dtype of `x`, or fp32 beside a bf16 `x`, on the device of `x`.
void check_parameter_type(const char* name, const at::Tensor& weight, const at::Tensor& x);

/// As `check_parameter_type`; throws also unless `weight` has `size` entries in one dim.
void check_channel_parameter(
    const char* name,
    const at::Tensor& weight,
    const c10::SymInt& size,
    const at::Tensor& x);

/// Throws unless `tensor` is absent or has these sizes.
void check_sizes(const char* name, const std::optional<at::Tensor>& tensor, at::IntArrayRef sizes);

/// `tensor` [..., D] as [rows, D] with neighbouring channels in the last dim and any row stride; a
/// copy where the strides do not allow a view.
at::Tensor as_rows(const at::Tensor& tensor);

} // namespace baton::ops
