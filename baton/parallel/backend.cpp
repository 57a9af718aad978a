// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/backend.h"

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

MakeBackend& nccl() {
  static MakeBackend make = nullptr;
  return make;
}

} // namespace

void register_nccl(MakeBackend make) {
  nccl() = make;
}

c10::intrusive_ptr<c10d::Backend> make_backend(const BackendRequest& request) {
  if (request.device.is_cpu()) {
    return make_gloo_backend(request);
  }
  if (nccl() == nullptr) {
    throw RunError("several ranks on GPUs need NCCL, and the CUDA half of Baton is not loaded");
  }
  return nccl()(request);
}

} // namespace baton::parallel
