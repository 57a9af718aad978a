// SPDX-License-Identifier: Apache-2.0
// Work that builds on other work, phase by phase in one parallel region.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace baton::ops::cpu {

/// Items that may run beside each other, behind all items of the phases before. What they call is
/// not ATen and does not throw. Items are cut by shape alone, so that no result depends on the
/// number of threads.
struct Phase {
  std::int64_t count = 0;
  /// `scratch` is the worker's own, as `prepare` left it.
  std::function<void(std::int64_t item, const void* scratch)> work;
  /// What every worker makes for itself in front of its first item, from what the phases before
  /// made: work so small that all of them do it sooner than they would wait for one. May be null.
  std::function<void(void* scratch)> prepare = nullptr;
  std::int64_t scratch_bytes = 0; ///< aligned for vectors, and readable a vector behind its end
};

/// Runs the phases one after the other on ATen's threads. No thread waits for one that has not
/// come: the others do its items.
void run_phases(std::span<const Phase> phases);

} // namespace baton::ops::cpu
