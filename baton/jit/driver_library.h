// SPDX-License-Identifier: Apache-2.0
// NVIDIA's driver, opened when it is wanted.
#pragma once

#include <cstddef>

namespace baton::jit {

/// A CUlaunchAttribute whose value is an int.
struct LaunchAttribute {
  int id = 0;
  alignas(8) int value = 0;
  int rest[15] = {};
};

/// A CUlaunchConfig.
struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void* stream;
  const LaunchAttribute* attributes;
  unsigned num_attributes;
};

/// The functions of libcuda that are used here, declared by hand so that Baton runs without it.
/// Their types are those of cuda.h: a result is an int, 0 is success, handles are pointers, a
/// device is an int, a device address a number.
struct DriverLibrary {
  int (*init)(unsigned flags) = nullptr;
  int (*error_name)(int result, const char** name) = nullptr;
  int (*error_text)(int result, const char** text) = nullptr;
  int (*current_device)(int* device) = nullptr;
  int (*device_attribute)(int* value, int attribute, int device) = nullptr;
  int (*load)(
      void** library,
      const void* code,
      const int* options,
      void** option_values,
      unsigned num_options,
      const int* library_options,
      void** library_option_values,
      unsigned num_library_options) = nullptr;
  int (*unload)(void* library) = nullptr;
  int (*kernel)(void** kernel, void* library, const char* name) = nullptr;
  int (*function)(void** function, void* kernel) = nullptr;
  int (*set_kernel_attribute)(int attribute, int value, void* kernel, int device) = nullptr;
  int (*encode_tiles)(
      void* map,
      int data_type,
      unsigned rank,
      void* data,
      const unsigned long long* sizes,
      const unsigned long long* strides,
      const unsigned* tile,
      const unsigned* steps,
      int interleave,
      int swizzle,
      int promotion,
      int fill) = nullptr;
  int (*launch)(const LaunchConfig* config, void* function, void** arguments, void** extra) =
      nullptr;
};

/// Opens libcuda.so.1 once and initialises it. It is never closed. Throws RunError where there is
/// no NVIDIA driver, or one older than CUDA 12's.
const DriverLibrary& driver();

/// Throws RunError with `what` and the driver's name and words for the result, unless that is 0.
void check_driver(int result, const char* what);

} // namespace baton::jit
