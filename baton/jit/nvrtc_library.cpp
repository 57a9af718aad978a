// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/nvrtc_library.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include <dlfcn.h>
#include <link.h>

#include "baton/base/env.h"
#include "baton/base/error.h"

namespace baton::jit {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 2> kNames = {"libnvrtc.so.13", "libnvrtc.so.12"};

bool begins_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

int append_path(dl_phdr_info* info, std::size_t, void* paths) {
  static_cast<std::vector<fs::path>*>(paths)->emplace_back(info->dlpi_name);
  return 0;
}

// Folders where NVRTC lies when torch and CUDA are wheels: site-packages/torch/lib/libc10.so stands
// for site-packages/nvidia, and the runtime's own folder holds NVRTC in CUDA 13's wheels.
std::vector<fs::path> folders_near_loaded_libraries() {
  std::vector<fs::path> loaded;
  dl_iterate_phdr(append_path, &loaded);
  std::vector<fs::path> folders;
  for (const fs::path& library : loaded) {
    if (library.filename() == "libc10.so") {
      const fs::path site = library.parent_path().parent_path().parent_path();
      folders.push_back(site / "nvidia/cu13/lib");
      folders.push_back(site / "nvidia/cuda_nvrtc/lib");
    } else if (begins_with(library.filename().string(), "libcudart.so")) {
      folders.push_back(library.parent_path());
    }
  }
  return folders;
}

std::vector<fs::path> candidates() {
  std::vector<fs::path> folders = folders_near_loaded_libraries();
  if (const std::optional<std::string> toolkit = read_env(kEnvCudaHome)) {
    folders.push_back(fs::path(*toolkit) / "lib64");
    folders.push_back(fs::path(*toolkit) / "lib");
  }
  folders.emplace_back(); // the system's own search
  std::vector<fs::path> paths;
  for (const char* name : kNames) {
    for (const fs::path& folder : folders) {
      paths.push_back(folder / name);
    }
  }
  return paths;
}

// NVRTC opens its built-in declarations by their bare name, which no search finds inside a wheel;
// a library that the process holds already is found by name.
void open_builtins_beside(const fs::path& library) {
  std::error_code error;
  for (fs::directory_iterator file(library.parent_path(), error), end; !error && file != end;
       file.increment(error)) {
    if (begins_with(file->path().filename().string(), "libnvrtc-builtins.so.")) {
      dlopen(file->path().c_str(), RTLD_NOW | RTLD_LOCAL);
    }
  }
}

void* find_library() {
  for (const char* name : kNames) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) {
      return library;
    }
  }
  std::string looked;
  for (const fs::path& path : candidates()) {
    std::error_code ignored;
    const bool elsewhere = path.has_parent_path();
    looked += (looked.empty() ? "" : ", ") + path.string();
    if (elsewhere && !fs::exists(path, ignored)) {
      continue;
    }
    if (elsewhere) {
      open_builtins_beside(path);
    }
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      return library;
    }
  }
  throw RunError(
      "no kernel compiler (NVRTC) is found; looked for " + looked +
      "; pip install nvidia-cuda-nvrtc brings it, or CUDA_HOME names a toolkit");
}

template <typename Function>
void find_function(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) {
    throw RunError(std::string("the kernel compiler (NVRTC) has no ") + name);
  }
}

} // namespace

NvrtcLibrary open_nvrtc() {
  void* library = find_library();
  NvrtcLibrary nvrtc;
  find_function(library, "nvrtcVersion", nvrtc.version);
  find_function(library, "nvrtcGetNumSupportedArchs", nvrtc.num_archs);
  find_function(library, "nvrtcGetSupportedArchs", nvrtc.archs);
  find_function(library, "nvrtcGetErrorString", nvrtc.error_text);
  find_function(library, "nvrtcCreateProgram", nvrtc.create);
  find_function(library, "nvrtcDestroyProgram", nvrtc.destroy);
  find_function(library, "nvrtcCompileProgram", nvrtc.compile);
  find_function(library, "nvrtcAddNameExpression", nvrtc.add_entry);
  find_function(library, "nvrtcGetLoweredName", nvrtc.entry_symbol);
  find_function(library, "nvrtcGetProgramLogSize", nvrtc.log_size);
  find_function(library, "nvrtcGetProgramLog", nvrtc.log);
  find_function(library, "nvrtcGetCUBINSize", nvrtc.cubin_size);
  find_function(library, "nvrtcGetCUBIN", nvrtc.cubin);
  Dl_info self{};
  if (dladdr(reinterpret_cast<const void*>(nvrtc.version), &self) != 0) {
    nvrtc.path = self.dli_fname;
  }
  return nvrtc;
}

} // namespace baton::jit
