// SPDX-License-Identifier: Apache-2.0
// Compiles kernels for the emulator with the machine's compiler, once each, and runs them.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>

#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <unistd.h>

#include "baton/base/sha256.h"
#include "baton/jit/source.h"
#include "baton/ops/cuda/launch.h"

namespace emulator {
namespace {

namespace fs = std::filesystem;

std::string preprocess_key(const std::string& command_line, const std::string& unit) {
  return baton::sha256_hex(command_line + unit).substr(0, 32);
}

// All files that a kernel may be made of; the key holds their texts.
std::string all_sources() {
  std::string text;
  for (const char* folder : {EMULATOR_ROOT "/baton/ops/cuda", EMULATOR_FOLDER}) {
    std::map<std::string, std::string> files;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      const std::string extension = entry.path().extension();
      if (extension == ".cuh" || extension == ".h") {
        std::ifstream in(entry.path());
        files[entry.path()] = {std::istreambuf_iterator<char>(in), {}};
      }
    }
    for (const auto& [path, content] : files) {
      text += path + content;
    }
  }
  return text;
}

Launch* compile(const baton::jit::KernelSpec& spec) {
  const std::string source = std::string(EMULATOR_ROOT) + "/" + spec.source;
  std::ifstream in(source);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::string unit = "#include \"emulator/device.h\"\n#include \"" + spec.source +
                           "\"\n"
                           "extern \"C\" void emulator_launch(const emulator::Shape& shape, void** "
                           "arguments, const emulator::Argument* given, std::size_t count) {\n"
                           "  emulator::launch(&" +
                           spec.entry + ", shape, arguments, given, count);\n}\n";
  static const std::string headers = all_sources();
  const fs::path folder = EMULATOR_CACHE;
  const std::string stem = preprocess_key(EMULATOR_COMMAND, unit + text + headers);
  const fs::path library = folder / (stem + ".so");
  if (!fs::exists(library)) {
    fs::create_directories(folder);
    const std::string own = stem + "." + std::to_string(getpid());
    const fs::path unit_file = folder / (own + ".cpp");
    std::ofstream(unit_file) << unit;
    const fs::path built = folder / (own + ".so");
    const std::string command =
        std::string(EMULATOR_COMMAND) + " -o " + built.string() + " " + unit_file.string();
    TORCH_CHECK(
        std::system(command.c_str()) == 0, spec.entry, " does not compile for the emulator");
    fs::remove(unit_file);
    fs::rename(built, library);
  }
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle != nullptr, dlerror());
  return reinterpret_cast<Launch*>(dlsym(handle, "emulator_launch"));
}

} // namespace

void run_kernel(
    const baton::jit::KernelSpec& spec,
    const Shape& shape,
    void** arguments,
    const Argument* given,
    std::size_t count) {
  static std::map<std::string, Launch*> kernels;
  Launch*& kernel = kernels[spec.source + " " + spec.entry];
  if (kernel == nullptr) {
    kernel = compile(spec);
  }
  kernel(shape, arguments, given, count);
}

} // namespace emulator
