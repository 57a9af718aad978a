// SPDX-License-Identifier: Apache-2.0
// The gradients of a Mamba-2 mixer on a GPU: kernels write them as columns of the gradient of the
// projected rows.
#include "baton/ops/mamba2_mixer.h"

#include <utility>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/write_gradients.h"

namespace baton::ops::cuda {
namespace {

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
  library.impl("mamba2_mixer_backward", &mamba2_mixer_backward_kernel<mamba2_mixer_backward_cuda>);
}

} // namespace baton::ops::cuda
