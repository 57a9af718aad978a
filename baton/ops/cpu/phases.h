// SPDX-License-Identifier: Apache-2.0
// Work that builds on other work, phase by phase in one parallel region.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace baton::ops::cpu {

/// Items that may run beside each other, behind all items of the phases before.
struct Phase {
  std::int64_t count = 0;
  /// Calls no ATen and does not throw. Items are cut by shape alone, so that no result depends on
  /// the number of threads.
  std::function<void(std::int64_t item)> work;
  /// What item i reads of memory: `item_bytes` behind `data` + i `item_bytes`; null if little.
  const void* data = nullptr;
  std::int64_t item_bytes = 0;
};

/// Runs the phases one after the other on ATen's threads. A thread that waits for the others
/// fetches what it reads in the next phase, so that memory does not rest meanwhile. No thread waits
/// for one that has not come: the others do its items.
void run_phases(std::span<const Phase> phases);

} // namespace baton::ops::cpu
