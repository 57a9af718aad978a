// SPDX-License-Identifier: Apache-2.0
// The two libraries that move tensors between ranks, chosen by device.
#pragma once

#include <chrono>
#include <string>

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace baton::parallel {

struct BackendRequest {
  c10::intrusive_ptr<c10d::Store> store; ///< with a prefix of its own
  int rank = 0;
  int size = 1;
  std::string name; ///< of the group, for the library's own messages
  c10::Device device = c10::kCPU;
  std::chrono::milliseconds timeout{0};
};

/// Gloo for a CPU, NCCL for a GPU. Connects the ranks: all of a group call it at once.
c10::intrusive_ptr<c10d::Backend> make_backend(const BackendRequest& request);

/// Only in parallel/gloo, for its sake: the wheel of torch lacks headers that its own names.
c10::intrusive_ptr<c10d::Backend> make_gloo_backend(const BackendRequest& request);

/// The CUDA half of the library brings NCCL when it is loaded.
using MakeBackend = c10::intrusive_ptr<c10d::Backend> (*)(const BackendRequest& request);
void register_nccl(MakeBackend make);

} // namespace baton::parallel
