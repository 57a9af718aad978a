// SPDX-License-Identifier: Apache-2.0
// Launching a kernel on the emulator: what host code of the CUDA operators includes in its tests.
#pragma once

#include <array>
#include <string>
#include <type_traits>

#include <ATen/core/Tensor.h>

#include "baton/jit/kernel_store.h"
#include "emulator/shape.h"

namespace emulator {

/// Compiles `spec` for the emulator if nobody has, and runs it.
void run_kernel(
    const baton::jit::KernelSpec& spec,
    const Shape& shape,
    void** arguments,
    const Argument* given,
    std::size_t count);

template <typename T>
Argument argument_of() {
  return {
      sizeof(T),
      std::is_pointer_v<T>          ? Kind::kPointer
      : std::is_floating_point_v<T> ? Kind::kFloating
      : std::is_integral_v<T>       ? Kind::kIntegral
                                    : Kind::kOther};
}

} // namespace emulator

namespace baton::ops::cuda {

class Launcher {
 public:
  explicit Launcher(const at::Tensor& /*tensor*/) {}

  template <class... Arguments>
  void launch(
      const jit::KernelSpec& spec,
      const jit::LaunchShape& shape,
      const Arguments&... arguments) const {
    std::array<void*, sizeof...(Arguments) + 1> pointers = {
        const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
    const std::array<emulator::Argument, sizeof...(Arguments) + 1> given = {
        emulator::argument_of<std::decay_t<Arguments>>()..., emulator::Argument{}};
    emulator::run_kernel(
        spec,
        {{shape.grid[0], shape.grid[1], shape.grid[2]},
         {shape.block[0], shape.block[1], shape.block[2]},
         shape.shared_bytes},
        pointers.data(),
        given.data(),
        sizeof...(Arguments));
  }

  /// No kernel that wants a certain architecture runs here.
  std::string arch() const { return "emulated"; }
  long long multiprocessors() const { return 1; }
};

} // namespace baton::ops::cuda
