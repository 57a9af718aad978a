// SPDX-License-Identifier: Apache-2.0
// What stands around the inner part of every layer: a norm in front, an addition behind.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

struct LayerFrame {
  at::Tensor norm_weight_D;
  double norm_eps = 1e-5;
  double scale = 1.0; ///< of what is added
};

/// rms_norm(hidden) in the norm's dtype: the stream hidden [T, D] may be wider (fp32) than what its
/// layers compute in.
at::Tensor norm_in(const LayerFrame& frame, const at::Tensor& hidden_TD);

/// hidden + scale output, in hidden's dtype.
at::Tensor add_out(const LayerFrame& frame, const at::Tensor& hidden_TD, const at::Tensor& out_TD);

} // namespace baton::ops
