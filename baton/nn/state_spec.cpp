// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/state_spec.h"

#include <c10/util/Exception.h>

namespace baton::nn {

const at::Tensor& CacheView::at(const std::string& name) const {
  const auto found = tensors.find(name);
  TORCH_INTERNAL_ASSERT(found != tensors.end(), "the cache holds no state named ", name);
  return found->second;
}

} // namespace baton::nn
