// SPDX-License-Identifier: Apache-2.0
// Measures a table of baton/ops/tuning.h on a GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <c10/core/Device.h>

#include "baton/ops/tuning.h"

namespace baton::ops {

/// What was measured for one key of the table.
struct TunedKey {
  std::string key; ///< "small.norm.block_threads"
  std::int64_t before = 0;
  std::int64_t value = 0; ///< what the table gets
  double gain = 1;        ///< times as fast as before, the mean over the kernels that it matters to
  double worst = 1;       ///< the same of the slowest value that was tried
};

/// The architecture that kernels of a GPU are compiled for, which names its table.
std::string arch_of(c10::Device device);

/// Goes through the keys, from `tuning` on, and takes another value where it is at least 3% faster
/// at the sizes of its class. `report` hears of every key. The device is a GPU of open_device().
Tuning
tune_kernels(Tuning tuning, c10::Device device, const std::function<void(const TunedKey&)>& report);

} // namespace baton::ops
