// SPDX-License-Identifier: Apache-2.0
// What the host half of the emulator and the kernels compiled for it tell each other.
#pragma once

#include <cstddef>

namespace emulator {

struct Shape {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
};

enum class Kind { kPointer, kIntegral, kFloating, kOther };

struct Argument {
  std::size_t bytes = 0;
  Kind kind = Kind::kOther;
};

/// What a compiled kernel exports under the name `emulator_launch`.
using Launch = void(const Shape& shape, void** arguments, const Argument* given, std::size_t count);

} // namespace emulator
