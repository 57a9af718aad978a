// SPDX-License-Identifier: Apache-2.0
// NVIDIA's run-time compiler, opened when it is wanted.
#pragma once

#include <cstddef>
#include <string>

namespace baton::jit {

/// The functions of NVRTC that are used here, declared by hand so that building Baton needs neither
/// its header nor its library. Their types are those of nvrtc.h: a result is an int, 0 is success,
/// a program a pointer.
struct NvrtcLibrary {
  int (*version)(int* major, int* minor) = nullptr;
  int (*num_archs)(int* count) = nullptr;
  int (*archs)(int* numbers) = nullptr; ///< 90 for sm_90 and sm_90a
  const char* (*error_text)(int result) = nullptr;
  int (*create)(
      void** program,
      const char* source,
      const char* name,
      int num_headers,
      const char* const* headers,
      const char* const* include_names) = nullptr;
  int (*destroy)(void** program) = nullptr;
  int (*compile)(void* program, int num_options, const char* const* options) = nullptr;
  int (*add_entry)(void* program, const char* expression) = nullptr;
  int (*entry_symbol)(void* program, const char* expression, const char** symbol) = nullptr;
  int (*log_size)(void* program, std::size_t* size) = nullptr;
  int (*log)(void* program, char* text) = nullptr;
  int (*cubin_size)(void* program, std::size_t* size) = nullptr;
  int (*cubin)(void* program, char* bytes) = nullptr;
  std::string path; ///< of the library
};

/// Opens libnvrtc.so.13, or .12: the one that the process holds already, else the one of the wheels
/// that torch or the CUDA runtime of this process came from, of $CUDA_HOME, of the system. It is
/// never closed. Throws RunError that says where was looked.
NvrtcLibrary open_nvrtc();

} // namespace baton::jit
