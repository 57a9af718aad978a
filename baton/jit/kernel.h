// SPDX-License-Identifier: Apache-2.0
// A compiled kernel in the hands of the driver.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "baton/jit/request.h"

namespace baton::jit {

/// Blocks of a launch, threads of a block, and the shared memory of a block beside the static part.
/// A launch that overlaps may begin while the one before it in the stream ends, as soon as that one
/// allows it (griddepcontrol.launch_dependents); its kernel itself waits for what the other leaves
/// (griddepcontrol.wait). Devices before sm_90 have no overlap: there one begins after the other.
struct LaunchShape {
  std::array<unsigned, 3> grid = {1, 1, 1};
  std::array<unsigned, 3> block = {1, 1, 1};
  unsigned shared_bytes = 0;
  bool overlaps = false;
};

/// Loaded on the device whose context is current, on any other at its first launch there, and
/// launched on the current one. Safe for threads. A launch may be captured in a CUDA graph once the
/// kernel is on the device.
class Kernel {
 public:
  /// Throws RunError where there is no driver, no context is current, or the machine code is for
  /// another architecture.
  Kernel(std::string name, std::shared_ptr<const CompiledKernel> compiled);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  /// Launches on a CUstream (or cudaStream_t), with arguments of exactly the kernel's types. Throws
  /// RunError that names the kernel.
  template <class... Arguments>
  void launch(const LaunchShape& shape, void* stream, const Arguments&... arguments) const {
    std::array<void*, sizeof...(Arguments) + 1> pointers = {
        const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
    launch_pointers(shape, stream, pointers.data());
  }

  const CompiledKernel& compiled() const { return *compiled_; }

 private:
  static constexpr int kMostDevices = 64;

  void launch_pointers(const LaunchShape& shape, void* stream, void** arguments) const;
  void allow_shared(unsigned bytes) const;

  std::string name_;
  std::shared_ptr<const CompiledKernel> compiled_;
  void* library_ = nullptr;
  void* kernel_ = nullptr;
  // Bytes of shared memory that a launch on each device may ask for.
  mutable std::array<std::atomic<unsigned>, kMostDevices> allowed_{};
};

/// The architecture that kernels of the current device are compiled for: "sm_80", or "sm_90a" where
/// the device has instructions of its own generation. Throws RunError where no device is current.
std::string current_arch();

/// Multiprocessors of the current device. Throws likewise.
int current_multiprocessors();

} // namespace baton::jit
