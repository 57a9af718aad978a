// SPDX-License-Identifier: Apache-2.0
// Runs independent items on ATen's threads so that no result depends on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "baton/ops/cpu/blas_threads.h"

namespace baton::ops::cpu {

/// Calls `work(i)` once for every i in [0, count), in any order, each call on one thread. A thread
/// takes neighbouring items one after the other, so that it reads memory from end to end, and helps
/// the others when it has done its part.
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
  struct alignas(64) Part { // of one thread; counters apart, so that they do not share a line
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };
  // At least two ranges: ATen runs a single one outside of a parallel region, where oneDNN takes
  // all threads.
  const std::int64_t workers = std::max<std::int64_t>(2, at::get_num_threads());
  std::vector<Part> parts(static_cast<std::size_t>(workers));
  for (std::int64_t w = 0; w < workers; ++w) {
    parts[w].next = count * w / workers;
    parts[w].end = count * (w + 1) / workers;
  }
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const OneThreadBlas one_thread;
    // An own part first, then those behind it, round to the start.
    for (std::int64_t own = begin; own < end; ++own) {
      for (std::int64_t shift = 0; shift < workers; ++shift) {
        Part& part = parts[(own + shift) % workers];
        for (std::int64_t i = part.next.fetch_add(1); i < part.end; i = part.next.fetch_add(1)) {
          work(i);
        }
      }
    }
  });
}

} // namespace baton::ops::cpu
