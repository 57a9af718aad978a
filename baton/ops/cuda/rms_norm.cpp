// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rms_norm.h"

#include <cstdint>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/norm_launch.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

at::Tensor rms_norm_cuda(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_rms_norm(x, weight, eps);
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (y.numel() == 0) {
    return y;
  }
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor weight_D = weight.contiguous();
  const NormRows rows = norm_rows(x_TD, x_TD.size(1), {x_TD, weight_D});
  const Launcher launcher(x);
  launcher.launch(
      rms_norm_kernels(x.scalar_type(), weight.scalar_type(), rows.packs).forward,
      norm_launch(launcher, rows),
      x_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      y.mutable_data_ptr(),
      static_cast<long long>(x_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<int>(rows.size),
      eps);
  return y;
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward_cuda(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight,
    double eps) {
  check_rms_norm(x, weight, eps);
  check_same("dy", dy, "x", x);
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) {
    return {dx, at::zeros(weight.sizes(), weight.options())};
  }
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor dy_TD = as_rows(dy);
  const at::Tensor weight_D = weight.contiguous();
  const NormRows rows = norm_rows(x_TD, x_TD.size(1), {x_TD, dy_TD, weight_D});
  at::Tensor dweight = at::empty(weight.sizes(), weight.options());
  const Launcher launcher(x);
  const NormGradientLaunch launch =
      norm_gradient_launch(launcher, rows, 2 * x.element_size(), x.options());
  launcher.launch(
      rms_norm_kernels(x.scalar_type(), weight.scalar_type(), rows.packs).backward,
      launch.shape,
      dy_TD.const_data_ptr(),
      x_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      dx.mutable_data_ptr(),
      launch.partials_BD.mutable_data_ptr(),
      static_cast<long long>(dy_TD.stride(0)),
      static_cast<long long>(x_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<int>(rows.size),
      eps);
  sum_partials(launcher, launch.partials_BD, dweight);
  return {dx, dweight};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("rms_norm", &rms_norm_cuda);
  library.impl("rms_norm_backward", &rms_norm_backward_cuda);
}

} // namespace baton::ops::cuda
