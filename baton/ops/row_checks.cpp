// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/row_checks.h"

#include <ATen/ATen.h>

namespace baton::ops {

void check_activation(const char* name, const at::Tensor& tensor) {
  const at::ScalarType dtype = tensor.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16,
      name,
      " must be fp64, fp32 or bf16, got ",
      dtype);
}

void check_same(
    const char* name,
    const at::Tensor& tensor,
    const char* reference_name,
    const at::Tensor& reference) {
  TORCH_CHECK(
      tensor.sym_sizes() == reference.sym_sizes() &&
          tensor.scalar_type() == reference.scalar_type() && tensor.device() == reference.device(),
      name,
      " must be like ",
      reference_name,
      ": ",
      tensor.scalar_type(),
      " ",
      tensor.sym_sizes(),
      " on ",
      tensor.device(),
      " vs ",
      reference.scalar_type(),
      " ",
      reference.sym_sizes(),
      " on ",
      reference.device());
}

void check_channel_parameter(
    const char* name,
    const at::Tensor& weight,
    const c10::SymInt& size,
    const at::Tensor& x) {
  TORCH_CHECK(
      weight.dim() == 1 && weight.sym_size(0) == size,
      name,
      " must have one entry a channel (",
      size,
      "), got shape ",
      weight.sym_sizes());
  check_parameter_type(name, weight, x);
}

void check_parameter_type(const char* name, const at::Tensor& weight, const at::Tensor& x) {
  const bool fp32_beside_bf16 =
      weight.scalar_type() == at::kFloat && x.scalar_type() == at::kBFloat16;
  TORCH_CHECK(
      weight.scalar_type() == x.scalar_type() || fp32_beside_bf16,
      name,
      " must have the dtype of the activations (",
      x.scalar_type(),
      "), or fp32 beside bf16, got ",
      weight.scalar_type());
  TORCH_CHECK(
      weight.device() == x.device(), name, " is on ", weight.device(), ", not on ", x.device());
}

void check_sizes(const char* name, const std::optional<at::Tensor>& tensor, at::IntArrayRef sizes) {
  TORCH_CHECK(
      !tensor || tensor->sizes() == sizes, name, " must be ", sizes, ", got ", tensor->sizes());
}

at::Tensor as_rows(const at::Tensor& tensor) {
  const std::int64_t channels = tensor.size(-1);
  const std::int64_t num_rows = c10::multiply_integers(tensor.sizes().slice(0, tensor.dim() - 1));
  const at::Tensor rows = tensor.dim() == 2 ? tensor : tensor.reshape({num_rows, channels});
  return channels <= 1 || rows.stride(1) == 1 ? rows : rows.contiguous();
}

} // namespace baton::ops
