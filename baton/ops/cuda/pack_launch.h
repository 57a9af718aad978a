// SPDX-License-Identifier: Apache-2.0
// Launches of kernels that work on every pack of some rows by itself.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "baton/jit/kernel.h"

namespace baton::ops::cuda {

struct PackRows {
  std::int64_t rows;
  std::int64_t channels; ///< of a row
  std::int64_t pack;     ///< neighbours that are read and written at once
};

/// Packs of `channels` are as wide as suits rows of every input, of the dtype of the first, each a
/// whole number of times as many channels.
PackRows pack_rows(std::int64_t channels, at::TensorList inputs);

/// Throws on more packs than a launch takes.
jit::LaunchShape pack_launch(const PackRows& rows);

} // namespace baton::ops::cuda
