// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/add_rms_norm.h"

#include <cstdint>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/norm_launch.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

std::tuple<at::Tensor, at::Tensor> add_rms_norm_cuda(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    double eps,
    double scale) {
  check_add_rms_norm(residual, update, weight, eps);
  at::Tensor sum = at::empty(residual.sizes(), residual.options());
  at::Tensor normed = at::empty(update.sizes(), update.options());
  if (update.numel() == 0) {
    return {sum, normed};
  }
  const at::Tensor residual_TD = as_rows(residual);
  const at::Tensor update_TD = as_rows(update);
  const at::Tensor weight_D = weight.contiguous();
  const NormRows rows = norm_rows(update_TD, update_TD.size(1), {residual_TD, update_TD, weight_D});
  const Launcher launcher(update);
  launcher.launch(
      add_rms_norm_kernels(
          residual.scalar_type(), update.scalar_type(), weight.scalar_type(), rows.packs)
          .forward,
      norm_launch(launcher, rows),
      residual_TD.const_data_ptr(),
      update_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      sum.mutable_data_ptr(),
      normed.mutable_data_ptr(),
      static_cast<long long>(residual_TD.stride(0)),
      static_cast<long long>(update_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<int>(rows.size),
      scale,
      eps);
  return {sum, normed};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_rms_norm_backward_cuda(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    double eps,
    double scale) {
  check_add_rms_norm_backward(dsum, dnormed, sum, weight, eps);
  const bool shared = shares_gradient(sum, dnormed, scale);
  at::Tensor dresidual = at::empty(sum.sizes(), sum.options());
  at::Tensor dupdate = at::empty(shared ? at::IntArrayRef{0} : dnormed.sizes(), dnormed.options());
  if (sum.numel() == 0) {
    return {dresidual, dupdate, at::zeros(weight.sizes(), weight.options())};
  }
  at::Tensor dweight = at::empty(weight.sizes(), weight.options());
  const at::Tensor sum_TD = as_rows(sum);
  const at::Tensor dsum_TD = dsum ? as_rows(*dsum) : sum_TD;
  const at::Tensor dnormed_TD = as_rows(dnormed);
  const at::Tensor weight_D = weight.contiguous();
  const NormRows rows =
      norm_rows(dnormed_TD, dnormed_TD.size(1), {dsum_TD, dnormed_TD, sum_TD, weight_D});
  const Launcher launcher(sum);
  const NormGradientLaunch launch = norm_gradient_launch(
      launcher, rows, 2 * sum.element_size() + dnormed.element_size(), dnormed.options());
  launcher.launch(
      add_rms_norm_kernels(
          sum.scalar_type(), dnormed.scalar_type(), weight.scalar_type(), rows.packs)
          .backward,
      launch.shape,
      dsum ? dsum_TD.const_data_ptr() : nullptr,
      dnormed_TD.const_data_ptr(),
      sum_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      dresidual.mutable_data_ptr(),
      shared ? nullptr : dupdate.mutable_data_ptr(),
      launch.partials_BD.mutable_data_ptr(),
      static_cast<long long>(dsum_TD.stride(0)),
      static_cast<long long>(dnormed_TD.stride(0)),
      static_cast<long long>(sum_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<int>(rows.size),
      scale,
      eps);
  sum_partials(launcher, launch.partials_BD, dweight);
  return {dresidual, dupdate, dweight};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("add_rms_norm", &add_rms_norm_cuda);
  library.impl("add_rms_norm_backward", &add_rms_norm_backward_cuda);
}

} // namespace baton::ops::cuda
