// SPDX-License-Identifier: Apache-2.0
// A Mamba-2 mixer on a GPU: the scan convolves x on its way where nobody wants gradients, and
// kernels write these as columns of the gradient of the projected rows.
#include "baton/ops/mamba2_mixer.h"

#include <utility>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/causal_conv1d.h"
#include "baton/ops/cuda/ssd_forward.h"
#include "baton/ops/cuda/ssd_plan.h"
#include "baton/ops/cuda/write_gradients.h"

namespace baton::ops::cuda {
namespace {

at::Tensor mamba2_mixer_cuda(const Mamba2MixerInputs& in) {
  const auto [z_TI, xbc_TC, dt_TH] = mamba2_mixer_columns(in.projected_TC, in);
  const std::int64_t inner = z_TI.size(1);
  const std::int64_t keys = xbc_TC.size(1) - inner; // of B and C
  const std::int64_t heads = in.A_H.size(0);
  const SsdSizes sizes{
      xbc_TC.size(0),
      heads,
      inner / heads,
      in.num_groups,
      keys / 2 / in.num_groups,
      in.starts_B1.numel() - 1};
  check_causal_conv1d(xbc_TC, in.conv_weight_CK, in.conv_bias_C, sizes.B, {}, {});
  const auto bias_of = [&](std::int64_t first, std::int64_t count) {
    return in.conv_bias_C ? std::optional(in.conv_bias_C->narrow(0, first, count)) : std::nullopt;
  };
  const ScanConvolution convolution{in.conv_weight_CK.narrow(0, 0, inner), bias_of(0, inner)};
  const at::Tensor x_THP = xbc_TC.narrow(1, 0, inner).view({sizes.T, sizes.H, sizes.P});
  if (!scan_convolves(x_THP, sizes, convolution)) {
    return mamba2_mixer_in_turn(in);
  }
  const at::Tensor keys_TC = causal_conv1d(
                                 xbc_TC.narrow(1, inner, keys),
                                 in.conv_weight_CK.narrow(0, inner, keys),
                                 bias_of(inner, keys),
                                 in.starts_B1,
                                 {},
                                 true)
                                 .y_TC;
  const auto of_groups = [&, T = sizes.T, G = sizes.G, N = sizes.N](std::int64_t first) {
    return keys_TC.narrow(1, first, keys / 2).view({T, G, N});
  };
  const SsdInputs scan{
      x_THP, dt_TH, in.A_H, of_groups(0), of_groups(keys / 2), in.starts_B1, in.D, in.time_step};
  const SsdSizes checked = checked_ssd_inputs(scan, {});
  check_devices(scan, {});
  const bool gates = !in.norm_weight;
  const at::Tensor y_TI = run_ssd(
                              scan,
                              {},
                              checked,
                              /*final_states=*/false,
                              gates ? std::optional(z_TI.view(x_THP.sizes())) : std::nullopt,
                              &convolution)
                              .y_THP.flatten(1);
  return gates ? y_TI : gated_norm(y_TI, z_TI, in.norm_weight, in.norm);
}

Mamba2MixerGradients mamba2_mixer_backward_cuda(
    const at::Tensor& dout_TI,
    const at::Tensor& y_TI,
    const at::Tensor& convolved_TC,
    const Mamba2MixerInputs& in) {
  const Mamba2MixerColumns columns = mamba2_mixer_columns(in.projected_TC, in);
  const SsdInputs scan = mamba2_mixer_scan(convolved_TC, columns.dt_TH, in);
  at::Tensor dprojected_TC = at::empty(in.projected_TC.sizes(), in.projected_TC.options());
  const Mamba2MixerColumns into = mamba2_mixer_columns(dprojected_TC, in);
  const at::Tensor dconvolved_TC = at::empty(convolved_TC.sizes(), convolved_TC.options());
  const SsdInputs scan_into = mamba2_mixer_scan(dconvolved_TC, into.dt_TH, in);
  GatedNormGradients gate =
      write_gated_norm_gradients(dout_TI, y_TI, columns.z_TI, in.norm_weight, in.norm, into.z_TI);
  SsdGradients scanned = write_ssd_gradients(
      gate.y.view(scan.x_THP.sizes()),
      std::nullopt,
      scan,
      {},
      {scan_into.x_THP, into.dt_TH, {}, scan_into.B_TGN, scan_into.C_TGN, {}, {}, {}});
  CausalConv1dGradients convolved = write_conv_gradients(
      dconvolved_TC,
      std::nullopt,
      columns.xbc_TC,
      in.conv_weight_CK,
      in.conv_bias_C,
      in.starts_B1,
      {},
      true,
      into.xbc_TC);
  return {
      std::move(dprojected_TC),
      std::move(convolved.dweight_CK),
      std::move(convolved.dbias_C),
      std::move(scanned.dA_H),
      std::move(scanned.dD),
      std::move(scanned.ddt_bias_H),
      std::move(gate.weight)};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("mamba2_mixer", &mamba2_mixer_kernel<mamba2_mixer_cuda>);
  library.impl("mamba2_mixer_backward", &mamba2_mixer_backward_kernel<mamba2_mixer_backward_cuda>);
}

} // namespace baton::ops::cuda
