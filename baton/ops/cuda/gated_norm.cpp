// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/gated_norm.h"

#include <cstdint>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/norm_launch.h"
#include "baton/ops/cuda/pack_launch.h"
#include "baton/ops/cuda/write_gradients.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

void launch_gate(
    const Launcher& launcher,
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const at::Tensor& out) {
  const PackRows rows = pack_rows(y_TD.size(1), {y_TD, z_TD});
  launcher.launch(
      gate_kernels(y_TD.scalar_type(), rows.pack).forward,
      pack_launch(rows),
      y_TD.const_data_ptr(),
      z_TD.const_data_ptr(),
      out.mutable_data_ptr(),
      static_cast<long long>(y_TD.stride(0)),
      static_cast<long long>(z_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<long long>(rows.channels));
}

at::Tensor gated_norm_cuda(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  check_gated_norm(y, z, weight, {eps, group_size, gate_first});
  at::Tensor out = at::empty(y.sizes(), y.options());
  if (out.numel() == 0) {
    return out;
  }
  const at::Tensor y_TD = as_rows(y);
  const at::Tensor z_TD = as_rows(z);
  const Launcher launcher(y);
  if (!weight) {
    launch_gate(launcher, y_TD, z_TD, out);
    return out;
  }
  const at::Tensor weight_D = weight->contiguous();
  const NormRows rows = norm_rows(y_TD, group_size, {y_TD, z_TD, weight_D});
  launcher.launch(
      gated_norm_kernels(y.scalar_type(), weight_D.scalar_type(), rows.packs, gate_first).forward,
      norm_launch(launcher, rows),
      y_TD.const_data_ptr(),
      z_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      out.mutable_data_ptr(),
      static_cast<long long>(y_TD.stride(0)),
      static_cast<long long>(z_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<int>(rows.groups),
      static_cast<int>(rows.size),
      eps);
  return out;
}

/// What the gradients of both forms read and write.
struct GatedGradients {
  at::Tensor dout_TD;
  at::Tensor y_TD;
  at::Tensor z_TD;
  at::Tensor dy;
  at::Tensor dz_TD;
};

void launch_gate_backward(const Launcher& launcher, const GatedGradients& of) {
  const PackRows rows = pack_rows(of.y_TD.size(1), {of.dout_TD, of.y_TD, of.z_TD, of.dz_TD});
  launcher.launch(
      gate_kernels(of.y_TD.scalar_type(), rows.pack).backward,
      pack_launch(rows),
      of.dout_TD.const_data_ptr(),
      of.y_TD.const_data_ptr(),
      of.z_TD.const_data_ptr(),
      of.dy.mutable_data_ptr(),
      of.dz_TD.mutable_data_ptr(),
      static_cast<long long>(of.dout_TD.stride(0)),
      static_cast<long long>(of.y_TD.stride(0)),
      static_cast<long long>(of.z_TD.stride(0)),
      static_cast<long long>(of.dz_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<long long>(rows.channels));
}

/// Returns the weight's gradient.
at::Tensor launch_norm_backward(
    const Launcher& launcher,
    const GatedGradients& of,
    const at::Tensor& weight,
    const GatedNormConfig& config) {
  const at::Tensor weight_D = weight.contiguous();
  const NormRows rows =
      norm_rows(of.y_TD, config.group_size, {of.dout_TD, of.y_TD, of.z_TD, of.dz_TD, weight_D});
  const NormGradientLaunch launch =
      norm_gradient_launch(launcher, rows, 3 * of.y_TD.element_size(), of.y_TD.options());
  launcher.launch(
      gated_norm_kernels(
          of.y_TD.scalar_type(), weight_D.scalar_type(), rows.packs, config.gate_first)
          .backward,
      launch.shape,
      of.dout_TD.const_data_ptr(),
      of.y_TD.const_data_ptr(),
      of.z_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      of.dy.mutable_data_ptr(),
      of.dz_TD.mutable_data_ptr(),
      launch.partials_BD.mutable_data_ptr(),
      static_cast<long long>(of.dout_TD.stride(0)),
      static_cast<long long>(of.y_TD.stride(0)),
      static_cast<long long>(of.z_TD.stride(0)),
      static_cast<long long>(of.dz_TD.stride(0)),
      static_cast<long long>(rows.rows),
      static_cast<int>(rows.groups),
      static_cast<int>(rows.size),
      config.eps);
  at::Tensor dweight = at::empty(weight.sizes(), weight.options());
  sum_partials(launcher, launch.partials_BD, dweight);
  return dweight;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gated_norm_backward_cuda(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  GatedNormGradients made = write_gated_norm_gradients(
      dout, y, z, weight, {eps, group_size, gate_first}, at::empty(z.sizes(), z.options()));
  return {made.y, made.z, made.weight};
}

} // namespace

GatedNormGradients write_gated_norm_gradients(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config,
    const at::Tensor& dz) {
  check_gated_norm(y, z, weight, config);
  check_same("dout", dout, "y", y);
  check_same("dz", dz, "z", z);
  const at::Tensor dy = at::empty(y.sizes(), y.options());
  const at::Tensor none = at::empty({0}, y.options());
  if (y.numel() == 0) {
    return {dy, dz, weight ? at::zeros(weight->sizes(), weight->options()) : none};
  }
  const GatedGradients of{as_rows(dout), as_rows(y), as_rows(z), dy, as_rows(dz)};
  TORCH_INTERNAL_ASSERT(of.dz_TD.is_alias_of(dz), "dz is written in a copy: ", dz.strides());
  const Launcher launcher(y);
  if (!weight) {
    launch_gate_backward(launcher, of);
    return {dy, dz, none};
  }
  return {dy, dz, launch_norm_backward(launcher, of, *weight, config)};
}

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("gated_norm", &gated_norm_cuda);
  library.impl("gated_norm_backward", &gated_norm_backward_cuda);
}

} // namespace baton::ops::cuda
