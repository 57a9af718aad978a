// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_gradient_checks.h"

#include <ATen/ATen.h>

namespace baton::ops {

void check_ssd_gradients(
    const at::Tensor& dy,
    const std::optional<at::Tensor>& dfinal_states,
    const at::Tensor& x,
    const SsdSizes& sizes) {
  TORCH_CHECK(
      dy.sizes() == x.sizes() && dy.scalar_type() == x.scalar_type(),
      "dy must be like x: ",
      dy.scalar_type(),
      " ",
      dy.sizes(),
      " vs ",
      x.scalar_type(),
      " ",
      x.sizes());
  if (dfinal_states.has_value()) {
    TORCH_CHECK(
        dfinal_states->dim() == 4 && dfinal_states->size(0) == sizes.B,
        "dfinal_states must have one state a sequence: ",
        dfinal_states->sizes(),
        " for ",
        sizes.B,
        " sequences");
    check_ssd_states(*dfinal_states, false, sizes, ssd_state_dtype(x));
  }
}

} // namespace baton::ops
