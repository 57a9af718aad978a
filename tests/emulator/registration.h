// SPDX-License-Identifier: Apache-2.0
// Lets the operators that a file registers for CUDA appear as baton_emulated::name, for tensors of
// the CPU. Included before the host code of the CUDA operators by the emulator's compile command.
#pragma once

#include <utility>

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace emulator {

class OperatorLibrary {
 public:
  explicit OperatorLibrary(torch::Library& library) : library_(library) {}

  template <typename Function>
  void impl(const char* name, Function function) {
    const auto original =
        c10::Dispatcher::singleton().findSchemaOrThrow((std::string("baton::") + name).c_str(), "");
    library_.def(original.schema().cloneWithName(std::string("baton_emulated::") + name, ""));
    library_.impl(name, torch::CppFunction(std::move(function)));
  }

 private:
  torch::Library& library_;
};

} // namespace emulator

#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(name_space, key, library) EMULATOR_LIBRARY(library, C10_UID)
#define EMULATOR_LIBRARY(library, uid) EMULATOR_LIBRARY_OF(library, uid)
#define EMULATOR_LIBRARY_OF(library, uid)                                       \
  static void C10_CONCATENATE(emulator_init_, uid)(emulator::OperatorLibrary&); \
  TORCH_LIBRARY_FRAGMENT(baton_emulated, fragment) {                            \
    emulator::OperatorLibrary emulated(fragment);                               \
    C10_CONCATENATE(emulator_init_, uid)(emulated);                             \
  }                                                                             \
  void C10_CONCATENATE(emulator_init_, uid)(emulator::OperatorLibrary & library)
