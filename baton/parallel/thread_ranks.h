// SPDX-License-Identifier: Apache-2.0
// For tests: the ranks of a mesh as threads of one process.
#pragma once

#include <chrono>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "baton/parallel/mesh.h"

namespace baton::parallel {

/// Calls `work` on every rank of a mesh of CPUs at once. Throws what the first rank threw.
inline void run_ranks(
    const MeshShape& shape,
    const std::function<void(const Mesh&)>& work,
    std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
  // Torch's recorder of collectives is one for the process, and not made for several ranks in it.
  setenv("TORCH_FR_BUFFER_SIZE", "0", 0);
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(shape.size()));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < shape.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        work(Mesh(shape, rank, store, c10::kCPU, timeout));
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const std::exception_ptr& each : thrown) {
    if (each) {
      std::rethrow_exception(each);
    }
  }
}

} // namespace baton::parallel
