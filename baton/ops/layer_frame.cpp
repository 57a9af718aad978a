// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/layer_frame.h"

#include <ATen/ATen.h>

#include "baton/ops/rms_norm.h"

namespace baton::ops {

at::Tensor norm_in(const LayerFrame& frame, const at::Tensor& hidden_TD) {
  return rms_norm(
      hidden_TD.to(frame.norm_weight_D.scalar_type()), frame.norm_weight_D, frame.norm_eps);
}

at::Tensor add_out(const LayerFrame& frame, const at::Tensor& hidden_TD, const at::Tensor& out_TD) {
  return at::add(hidden_TD, out_TD, frame.scale);
}

} // namespace baton::ops
