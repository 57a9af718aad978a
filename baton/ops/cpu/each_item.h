// SPDX-License-Identifier: Apache-2.0
// Runs independent items on ATen's threads so that no result depends on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "baton/ops/cpu/blas_threads.h"

namespace baton::ops::cpu {

/// Calls `work(i)` once for every i in [0, count), in any order, each call on one thread.
///
/// Matrix products inside `work` stay on that thread, because a library that uses all threads cuts
/// products by their number, which changes the bits of the result. Items must therefore be cut by
/// shape alone. ATen calls inside `work` go below autograd, whose thread-local guards worker
/// threads do not inherit.
template <class Work>
void for_each_item(std::int64_t count, const Work& work) {
  if (count <= 0) {
    return;
  }
  std::atomic<std::int64_t> next{0};
  // At least two ranges: ATen runs a single one outside of a parallel region, where oneDNN takes
  // all threads.
  const std::int64_t workers = std::max<std::int64_t>(2, at::get_num_threads());
  at::parallel_for(0, workers, 1, [&](std::int64_t, std::int64_t) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const OneThreadBlas one_thread;
    for (std::int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      work(i);
    }
  });
}

} // namespace baton::ops::cpu
