// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/forward_only.h"

#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

namespace baton::ops {

void run_forward_only(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const auto given = torch::jit::last(*stack, arguments.size());
  std::vector<at::Tensor> written;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (!given[i].isTensor() || !given[i].toTensor().defined()) {
      continue;
    }
    const at::Tensor& tensor = given[i].toTensor();
    TORCH_CHECK(
        !(at::GradMode::is_enabled() && tensor.requires_grad()),
        op.schema().name(),
        " has no derivative, but its argument '",
        arguments[i].name(),
        "' requires grad: detach it or turn grad mode off");
    if (arguments[i].alias_info() != nullptr && arguments[i].alias_info()->isWrite()) {
      written.push_back(tensor);
    }
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  }
  for (const at::Tensor& tensor : written) {
    if (!tensor.is_inference()) {
      tensor.unsafeGetTensorImpl()->bump_version();
    }
  }
}

} // namespace baton::ops
