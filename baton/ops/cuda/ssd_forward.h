// SPDX-License-Identifier: Apache-2.0
// The forward scan on a GPU for operators that are more than a scan.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd.h"

namespace baton::ops::cuda {

/// A causal convolution with SiLU, in bf16 or fp32, of sequences that start from zero.
struct ScanConvolution {
  at::Tensor weight_CK; ///< [H P, K]
  std::optional<at::Tensor> bias_C;
};

/// Whether the scan of such x makes the convolution on its way: where sm_90a's kernels take it, for
/// a K of up to 4, and sequences that are neither cut nor joined.
bool scan_convolves(
    const at::Tensor& x_THP,
    const SsdSizes& sizes,
    const ScanConvolution& convolution);

/// As `ssd`, for inputs that passed checked_ssd_inputs() and check_devices(). With a convolution,
/// of which scan_convolves() said yes, x is what it is made of, and sequences start from zero.
SsdOutput run_ssd(
    const SsdInputs& inputs,
    const SsdStart& start,
    const SsdSizes& sizes,
    bool final_states,
    const std::optional<at::Tensor>& z_THP,
    const ScanConvolution* convolution = nullptr);

} // namespace baton::ops::cuda
