// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/driver_library.h"

#include <string>

#include <dlfcn.h>

#include "baton/base/error.h"

namespace baton::jit {
namespace {

constexpr const char* kName = "libcuda.so.1";

template <typename Function>
void find_function(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) {
    throw RunError(
        std::string("the NVIDIA driver has no ") + name + ": kernels want one of CUDA 12 or later");
  }
}

std::string text_of(const DriverLibrary& driver, int result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver.error_name(result, &name);
  driver.error_text(result, &text);
  return name == nullptr ? "error " + std::to_string(result)
                         : std::string(name) + (text == nullptr ? "" : std::string(", ") + text);
}

DriverLibrary open_driver() {
  void* library = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw RunError(std::string("no NVIDIA driver: ") + kName + " cannot be opened");
  }
  DriverLibrary driver;
  find_function(library, "cuInit", driver.init);
  find_function(library, "cuGetErrorName", driver.error_name);
  find_function(library, "cuGetErrorString", driver.error_text);
  find_function(library, "cuCtxGetDevice", driver.current_device);
  find_function(library, "cuDeviceGetAttribute", driver.device_attribute);
  find_function(library, "cuLibraryLoadData", driver.load);
  find_function(library, "cuLibraryUnload", driver.unload);
  find_function(library, "cuLibraryGetKernel", driver.kernel);
  find_function(library, "cuKernelGetFunction", driver.function);
  find_function(library, "cuKernelSetAttribute", driver.set_kernel_attribute);
  find_function(library, "cuTensorMapEncodeTiled", driver.encode_tiles);
  find_function(library, "cuLaunchKernelEx", driver.launch);
  if (const int result = driver.init(0); result != 0) {
    throw RunError("the NVIDIA driver does not start: " + text_of(driver, result));
  }
  return driver;
}

} // namespace

const DriverLibrary& driver() {
  static const DriverLibrary opened = open_driver();
  return opened;
}

void check_driver(int result, const char* what) {
  if (result != 0) {
    throw RunError(std::string(what) + ": " + text_of(driver(), result));
  }
}

} // namespace baton::jit
