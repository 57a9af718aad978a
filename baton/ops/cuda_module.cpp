// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_module.h"

#include <string>

#include <dlfcn.h>

namespace baton::ops {
namespace {

std::string last_dl_error() {
  const char* message = dlerror();
  return message == nullptr ? "unknown error" : message;
}

struct CudaModule {
  CudaModuleStatus status;
  int (*device_count)() = nullptr;
};

CudaModule open_cuda_module() {
  CudaModule opened;
  CudaModuleStatus& status = opened.status;
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) == nullptr) {
    status.reason = "no NVIDIA driver: " + last_dl_error();
    return opened;
  }
  Dl_info self{};
  if (dladdr(reinterpret_cast<const void*>(&cuda_module_status), &self) == 0) {
    status.reason = "the operator library cannot find its own path";
    return opened;
  }
  std::string path = self.dli_fname;
  const std::size_t slash = path.rfind('/');
  path =
      (slash == std::string::npos ? std::string() : path.substr(0, slash + 1)) + "libbaton_cuda.so";
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (module == nullptr) {
    status.reason = last_dl_error();
    return opened;
  }
  opened.device_count = reinterpret_cast<int (*)()>(dlsym(module, "baton_cuda_device_count"));
  if (opened.device_count == nullptr) {
    status.reason = path + " is not Baton's CUDA module";
    return opened;
  }
  status.open = true;
  return opened;
}

const CudaModule& cuda_module() {
  static const CudaModule module = open_cuda_module();
  return module;
}

[[maybe_unused]] const CudaModuleStatus& kOpenedAtLoad = cuda_module_status();

} // namespace

const CudaModuleStatus& cuda_module_status() {
  return cuda_module().status;
}

int cuda_device_count() {
  return cuda_module_status().open ? cuda_module().device_count() : 0;
}

} // namespace baton::ops
