// SPDX-License-Identifier: Apache-2.0
// The gradients of a Mamba-2 mixer on the CPU: those of its operators, put side by side.
#include "baton/ops/mamba2_mixer.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/causal_conv1d.h"

namespace baton::ops::cpu {
namespace {

Mamba2MixerGradients mamba2_mixer_backward_cpu(
    const at::Tensor& dout_TI,
    const at::Tensor& y_TI,
    const at::Tensor& convolved_TC,
    const Mamba2MixerInputs& in) {
  const Mamba2MixerColumns columns = mamba2_mixer_columns(in.projected_TC, in);
  const SsdInputs scan = mamba2_mixer_scan(convolved_TC, columns.dt_TH, in);
  GatedNormGradients gate =
      gated_norm_backward(dout_TI, y_TI, columns.z_TI, in.norm_weight, in.norm);
  SsdGradients scanned = ssd_backward(gate.y.view(scan.x_THP.sizes()), std::nullopt, scan);
  const at::Tensor dconvolved_TC =
      at::cat({scanned.dx_THP.flatten(1), scanned.dB_TGN.flatten(1), scanned.dC_TGN.flatten(1)}, 1);
  const CausalConv1dGradients convolved = causal_conv1d_backward(
      dconvolved_TC, columns.xbc_TC, in.conv_weight_CK, in.conv_bias_C, in.starts_B1, {}, true);
  return {
      at::cat({gate.z, convolved.dx_TC, scanned.ddt_TH}, 1),
      convolved.dweight_CK,
      in.conv_bias_C ? convolved.dbias_C : at::empty({0}, in.projected_TC.options()),
      scanned.dA_H,
      scanned.dD,
      scanned.ddt_bias_H,
      gate.weight};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("mamba2_mixer_backward", &mamba2_mixer_backward_kernel<mamba2_mixer_backward_cpu>);
}

} // namespace baton::ops::cpu
