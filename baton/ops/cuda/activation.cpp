// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/activation.h"

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/pack_launch.h"
#include "baton/ops/cuda_kernels_rows.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

/// Rows of an elementwise operator's input: a single one where values lie side by side.
at::Tensor as_values(const at::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor.reshape({1, tensor.numel()}) : as_rows(tensor);
}

void launch_forward(
    jit::KernelSpec ActivationKernels::*kernel,
    const at::Tensor& x_TD,
    std::int64_t channels,
    const at::Tensor& y) {
  const PackRows rows = pack_rows(channels, {x_TD});
  const Launcher launcher(x_TD);
  launcher.launch(
      activation_kernels(x_TD.scalar_type(), rows.pack).*kernel,
      pack_launch(rows),
      x_TD.const_data_ptr(),
      y.mutable_data_ptr(),
      static_cast<long long>(x_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<long long>(rows.channels));
}

void launch_backward(
    jit::KernelSpec ActivationKernels::*kernel,
    const at::Tensor& dy_TF,
    const at::Tensor& x_TD,
    const at::Tensor& dx) {
  const PackRows rows = pack_rows(dy_TF.size(1), {dy_TF, x_TD});
  const Launcher launcher(x_TD);
  launcher.launch(
      activation_kernels(x_TD.scalar_type(), rows.pack).*kernel,
      pack_launch(rows),
      dy_TF.const_data_ptr(),
      x_TD.const_data_ptr(),
      dx.mutable_data_ptr(),
      static_cast<long long>(dy_TF.stride(0)),
      static_cast<long long>(x_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<long long>(rows.channels));
}

at::Tensor squared_relu_cuda(const at::Tensor& x) {
  check_activation("x", x);
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (x.numel() > 0) {
    const at::Tensor x_TD = as_values(x);
    launch_forward(&ActivationKernels::squared_relu, x_TD, x_TD.size(1), y);
  }
  return y;
}

at::Tensor squared_relu_backward_cuda(const at::Tensor& dy, const at::Tensor& x) {
  check_activation("x", x);
  check_same("dy", dy, "x", x);
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (x.numel() > 0) {
    const bool one_row = dy.is_contiguous() && x.is_contiguous();
    launch_backward(
        &ActivationKernels::squared_relu_backward,
        one_row ? as_values(dy) : as_rows(dy),
        one_row ? as_values(x) : as_rows(x),
        dx);
  }
  return dx;
}

at::Tensor swiglu_cuda(const at::Tensor& x) {
  check_activation("x", x);
  TORCH_CHECK(
      x.dim() >= 1 && x.size(-1) % 2 == 0, "the last dim of x must be even, got ", x.sizes());
  std::vector<std::int64_t> sizes = x.sizes().vec();
  sizes.back() /= 2;
  at::Tensor y = at::empty(sizes, x.options());
  if (y.numel() > 0) {
    launch_forward(&ActivationKernels::swiglu, as_rows(x), sizes.back(), y);
  }
  return y;
}

at::Tensor swiglu_backward_cuda(const at::Tensor& dy, const at::Tensor& x) {
  check_activation("x", x);
  TORCH_CHECK(
      x.dim() >= 1 && dy.dim() == x.dim() && dy.size(-1) * 2 == x.size(-1) &&
          dy.numel() * 2 == x.numel() && dy.scalar_type() == x.scalar_type() &&
          dy.device() == x.device(),
      "dy must have half the channels of x: ",
      dy.sizes(),
      " vs ",
      x.sizes());
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (x.numel() > 0) {
    launch_backward(&ActivationKernels::swiglu_backward, as_rows(dy), as_rows(x), dx);
  }
  return dx;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("squared_relu", &squared_relu_cuda);
  library.impl("squared_relu_backward", &squared_relu_backward_cuda);
  library.impl("swiglu", &swiglu_cuda);
  library.impl("swiglu_backward", &swiglu_backward_cuda);
}

} // namespace baton::ops::cuda
