// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/compiler.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <system_error>
#include <vector>

#include "baton/base/error.h"
#include "baton/jit/ptxas_log.h"

namespace baton::jit {
namespace {

namespace fs = std::filesystem;

// NVRTC names its release but not its build, which may change the code that it makes; the size of
// the library tells builds apart and is the same on every host.
std::string version_of(const NvrtcLibrary& nvrtc) {
  int major = 0;
  int minor = 0;
  nvrtc.version(&major, &minor);
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(nvrtc.path, error);
  return "nvrtc " + std::to_string(major) + "." + std::to_string(minor) + " of " +
         std::to_string(error ? 0 : bytes) + " bytes";
}

// In wheels and toolkits: lib/../include, lib64/../include.
std::string include_folder_of(const NvrtcLibrary& nvrtc) {
  std::error_code ignored;
  const fs::path folder = fs::path(nvrtc.path).parent_path().parent_path() / "include";
  return fs::exists(folder / "cuda_bf16.h", ignored) ? folder.string() : "";
}

std::vector<const char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<const char*> pointers;
  pointers.reserve(texts.size());
  for (const std::string& text : texts) {
    pointers.push_back(text.c_str());
  }
  return pointers;
}

// One compilation, from source to machine code.
class Program {
 public:
  Program(const NvrtcLibrary& nvrtc, const CompileRequest& request)
      : nvrtc_(nvrtc), request_(request) {
    std::vector<const char*> texts;
    std::vector<const char*> names;
    for (const SourceFile& header : request.headers) {
      texts.push_back(header.text.c_str());
      names.push_back(header.name.c_str());
    }
    check(nvrtc.create(
        &program_,
        request.source.text.c_str(),
        request.source.name.c_str(),
        static_cast<int>(names.size()),
        texts.data(),
        names.data()));
    const int result = nvrtc.add_entry(program_, request.entry.c_str());
    if (result != 0) {
      nvrtc.destroy(&program_);
      check(result);
    }
  }
  ~Program() { nvrtc_.destroy(&program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void compile(const std::vector<std::string>& options) {
    const std::vector<const char*> pointers = pointers_to(options);
    const int result = nvrtc_.compile(program_, static_cast<int>(pointers.size()), pointers.data());
    std::size_t size = 0;
    if (nvrtc_.log_size(program_, &size) == 0 && size > 1) {
      log_.resize(size);
      nvrtc_.log(program_, log_.data());
      log_.resize(size - 1); // without the closing zero
    }
    check(result);
  }

  std::string entry_symbol() const {
    const char* symbol = nullptr;
    check(nvrtc_.entry_symbol(program_, request_.entry.c_str(), &symbol));
    return symbol;
  }

  std::string cubin() const {
    std::size_t size = 0;
    check(nvrtc_.cubin_size(program_, &size));
    std::string bytes(size, '\0');
    check(nvrtc_.cubin(program_, bytes.data()));
    return bytes;
  }

  const std::string& log() const { return log_; }

 private:
  void check(int result) const {
    if (result != 0) {
      throw Error(
          "kernel " + request_.name + " does not compile for " + request_.arch + ": " +
          nvrtc_.error_text(result) + (log_.empty() ? "" : "\n" + log_));
    }
  }

  const NvrtcLibrary& nvrtc_;
  const CompileRequest& request_;
  void* program_ = nullptr;
  std::string log_;
};

} // namespace

Compiler::Compiler()
    : nvrtc_(open_nvrtc()),
      version_(version_of(nvrtc_)),
      include_folder_(include_folder_of(nvrtc_)) {}

void Compiler::check_arch(const std::string& arch) const {
  int count = 0;
  nvrtc_.num_archs(&count);
  std::vector<int> numbers(static_cast<std::size_t>(count));
  nvrtc_.archs(numbers.data());
  std::string known;
  for (const int number : numbers) {
    const std::string name = "sm_" + std::to_string(number);
    // A letter stands for what one generation alone has: sm_90a.
    const std::string feature =
        arch.substr(0, name.size()) == name ? arch.substr(name.size()) : "-";
    if (feature.empty() || feature == "a" || feature == "f") {
      return;
    }
    known += (known.empty() ? "" : ", ") + name;
  }
  throw Error("unknown architecture \"" + arch + "\", this NVRTC compiles for " + known);
}

CompiledKernel Compiler::compile(const CompileRequest& request) const {
  std::vector<std::string> options = request.options;
  options.push_back("--gpu-architecture=" + request.arch);
  options.emplace_back("--ptxas-options=-v");
  if (!include_folder_.empty()) {
    options.push_back("--include-path=" + include_folder_);
  }
  const auto start = std::chrono::steady_clock::now();
  Program program(nvrtc_, request);
  program.compile(options);
  CompiledKernel kernel;
  kernel.microseconds = std::chrono::duration_cast<std::chrono::microseconds>(
                            std::chrono::steady_clock::now() - start)
                            .count();
  kernel.cubin = program.cubin();
  kernel.entry_symbol = program.entry_symbol();
  kernel.log = program.log();
  for (const KernelResources& resources : parse_ptxas_log(kernel.log)) {
    if (resources.symbol == kernel.entry_symbol) {
      kernel.registers = resources.registers;
      kernel.spill_bytes = resources.spill_bytes;
      kernel.shared_bytes = resources.shared_bytes;
      kernel.stack_bytes = resources.stack_bytes;
    }
  }
  return kernel;
}

} // namespace baton::jit
