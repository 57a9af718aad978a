// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/kernel.h"

#include <utility>

#include "baton/base/error.h"
#include "baton/jit/driver_library.h"

namespace baton::jit {
namespace {

constexpr unsigned kSharedForAll = 48 << 10; // of a block, without being asked: static and dynamic
constexpr int kMultiprocessors = 16;         // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
constexpr int kMajor = 75;                   // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int kMinor = 76;                   // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
constexpr int kMostDynamicShared = 8;        // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kFirstSpecific = 9;            // generations that have an "a" architecture
constexpr int kFirstOverlapping = 9;         // generations whose launches may overlap
// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
constexpr int kProgrammaticSerialization = 6;

int current_device() {
  int device = 0;
  check_driver(driver().current_device(&device), "no CUDA device is current");
  return device;
}

int attribute(int which, int device) {
  int value = 0;
  check_driver(driver().device_attribute(&value, which, device), "cannot ask the CUDA device");
  return value;
}

} // namespace

Kernel::Kernel(std::string name, std::shared_ptr<const CompiledKernel> compiled)
    : name_(std::move(name)), compiled_(std::move(compiled)) {
  const DriverLibrary& cuda = driver();
  const std::string what = "kernel " + name_ + " cannot be loaded";
  check_driver(
      cuda.load(&library_, compiled_->cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
      what.c_str());
  int result = cuda.kernel(&kernel_, library_, compiled_->entry_symbol.c_str());
  if (result == 0) {
    void* function = nullptr;
    result = cuda.function(&function, kernel_); // puts it on the current device now
  }
  if (result != 0) {
    cuda.unload(library_);
    check_driver(result, what.c_str());
  }
}

Kernel::~Kernel() {
  // At the end of a process the driver may be gone already, and has then cleaned up.
  driver().unload(library_);
}

void Kernel::launch_pointers(const LaunchShape& shape, void* stream, void** arguments) const {
  if (shape.shared_bytes + static_cast<unsigned>(compiled_->shared_bytes) > kSharedForAll) {
    allow_shared(shape.shared_bytes);
  }
  const bool overlaps = shape.overlaps && attribute(kMajor, current_device()) >= kFirstOverlapping;
  const LaunchAttribute overlap{.id = kProgrammaticSerialization, .value = 1};
  const LaunchConfig config{
      {shape.grid[0], shape.grid[1], shape.grid[2]},
      {shape.block[0], shape.block[1], shape.block[2]},
      shape.shared_bytes,
      stream,
      &overlap,
      overlaps ? 1u : 0u};
  const int result = driver().launch(&config, kernel_, arguments, nullptr);
  if (result != 0) {
    check_driver(result, ("kernel " + name_ + " cannot be launched").c_str());
  }
}

void Kernel::allow_shared(unsigned bytes) const {
  const int device = current_device();
  std::atomic<unsigned>& allowed = allowed_.at(static_cast<std::size_t>(device));
  if (allowed >= bytes) {
    return;
  }
  const int result =
      driver().set_kernel_attribute(kMostDynamicShared, static_cast<int>(bytes), kernel_, device);
  if (result != 0) {
    check_driver(
        result,
        ("kernel " + name_ + " wants " + std::to_string(bytes) + " bytes of shared memory")
            .c_str());
  }
  // A smaller value of another thread is only asked for again.
  allowed = bytes;
}

std::string current_arch() {
  const int device = current_device();
  const int major = attribute(kMajor, device);
  const std::string number = std::to_string(major) + std::to_string(attribute(kMinor, device));
  return "sm_" + number + (major >= kFirstSpecific ? "a" : "");
}

int current_multiprocessors() {
  return attribute(kMultiprocessors, current_device());
}

} // namespace baton::jit
