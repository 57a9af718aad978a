// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/device.h"

#include <charconv>
#include <cstdlib>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/AllocatorConfig.h>

#include "baton/base/env.h"
#include "baton/base/error.h"
#include "baton/jit/kernel.h"
#include "baton/ops/cuda_module.h"

namespace baton::ops {
namespace {

constexpr int kOldestArch = 80; // the first with bf16 in its tensor units

/// The number behind "cuda:", 0 for "cuda" alone; nothing for any other name.
std::optional<int> gpu_number(const std::string& name) {
  if (name == "cuda") {
    return 0;
  }
  const std::string prefix = "cuda:";
  int number = 0;
  const char* const end = name.data() + name.size();
  const bool begins = name.rfind(prefix, 0) == 0 && name.size() > prefix.size();
  if (!begins || name[prefix.size()] == '-') {
    return std::nullopt;
  }
  const auto [rest, error] = std::from_chars(name.data() + prefix.size(), end, number);
  return error == std::errc() && rest == end ? std::optional(number) : std::nullopt;
}

/// A model's tensors come in all sizes, and the gaps that one step leaves do not fit the next
/// one's.
void let_memory_segments_grow() {
  if (!read_env(kEnvTorchMemory) && !read_env(kEnvTorchCudaMemory)) {
    c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
  }
}

void check_age(c10::Device device, const std::string& asked) {
  const std::string arch = jit::current_arch();
  if (std::atoi(arch.c_str() + arch.find('_') + 1) < kOldestArch) {
    throw Error(
        asked + ": device " + std::to_string(device.index()) + " is of architecture " + arch +
        ", the kernels want sm_" + std::to_string(kOldestArch) + " or newer");
  }
}

} // namespace

c10::Device open_device(const std::string& name, const std::string& key) {
  if (name == "cpu") {
    return at::kCPU;
  }
  const std::optional<int> number = gpu_number(name);
  if (!number) {
    throw Error(key + " must be cpu, cuda or cuda:N, got \"" + name + "\"");
  }
  const std::string asked = key + " is " + name;
  if (!cuda_module_status().open) {
    throw Error(asked + ", but CUDA cannot be used here: " + cuda_module_status().reason);
  }
  const int count = cuda_device_count();
  if (*number >= count) {
    throw Error(
        asked + ", but " +
        (count == 0 ? "the driver offers no GPU"
                    : "the last GPU here is cuda:" + std::to_string(count - 1)));
  }
  let_memory_segments_grow();
  const c10::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(*number));
  const c10::DeviceGuard current(device);
  at::zeros({1}, at::TensorOptions().device(device)); // starts the device
  check_age(device, asked);
  return device;
}

void set_arithmetic(bool deterministic) {
  at::Context& context = at::globalContext();
  context.setFloat32MatmulPrecision("highest");
  context.setAllowBF16ReductionCuBLAS(
      /*allow_reduced_precision=*/false, /*allow_splitk=*/true);
  context.setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
  // Our operators write all that they allocate.
  context.setDeterministicFillUninitializedMemory(false);
  if (deterministic) {
    // Without this cuBLAS may take another algorithm when a stream has another workspace.
    setenv(kEnvCublasWorkspace.name, ":4096:8", /*overwrite=*/0);
  }
}

} // namespace baton::ops
