// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/phases.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include <ATen/Parallel.h>
#include <hwy/aligned_allocator.h>
#include <hwy/cache_control.h>

namespace baton::ops::cpu {
namespace {

constexpr std::int64_t kLineBytes = 64;
constexpr std::int64_t kSpins = 1 << 10; // some 20 us; then another thread may have the core

/// With a line behind it, which a vector may reach into.
std::int64_t whole_vectors(std::int64_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes + kLineBytes;
}

/// Neighbouring items of one phase, those that one worker takes first. Apart from each other, so
/// that counters do not share a line.
struct alignas(kLineBytes) Part {
  std::atomic<std::int64_t> next{0};
  std::int64_t end = 0;
};

/// Items of a phase that are done. A type that a system call can wait for.
struct alignas(kLineBytes) Counter {
  std::atomic<std::int32_t> value{0};
};

class PhaseRun {
 public:
  PhaseRun(std::span<const Phase> phases, std::int64_t workers)
      : phases_(phases),
        workers_(workers),
        parts_(phases.size() * static_cast<std::size_t>(workers)),
        done_(phases.size()) {
    for (const Phase& phase : phases) {
      scratch_bytes_ = std::max(scratch_bytes_, whole_vectors(phase.scratch_bytes));
    }
    scratch_ = hwy::AllocateAligned<char>(static_cast<std::size_t>(workers * scratch_bytes_));
    for (std::size_t phase = 0; phase < phases.size(); ++phase) {
      for (std::int64_t w = 0; w < workers; ++w) {
        Part& own = part(phase, w);
        own.next.store(phases[phase].count * w / workers, std::memory_order_relaxed);
        own.end = phases[phase].count * (w + 1) / workers;
      }
    }
  }

  /// The others wait for what this worker takes, so it ends in no other way.
  void run(std::int64_t worker) noexcept {
    for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
      work(phase, worker);
      wait(phase);
    }
  }

 private:
  Part& part(std::size_t phase, std::int64_t worker) {
    return parts_[phase * static_cast<std::size_t>(workers_) + static_cast<std::size_t>(worker)];
  }

  /// An own part first, then those behind it, round to the start.
  void work(std::size_t phase, std::int64_t worker) {
    char* scratch = scratch_.get() + worker * scratch_bytes_;
    std::int32_t count = 0;
    for (std::int64_t shift = 0; shift < workers_; ++shift) {
      Part& from = part(phase, (worker + shift) % workers_);
      const auto take = [&] { return from.next.fetch_add(1, std::memory_order_relaxed); };
      for (std::int64_t item = take(); item < from.end; item = take()) {
        if (count == 0 && phases_[phase].prepare) {
          phases_[phase].prepare(scratch);
        }
        phases_[phase].work(item, scratch);
        ++count;
      }
    }
    std::atomic<std::int32_t>& done = done_[phase].value;
    if (count > 0 &&
        done.fetch_add(count, std::memory_order_release) + count == phases_[phase].count) {
      done.notify_all();
    }
  }

  void wait(std::size_t phase) {
    std::int64_t spins = 0;
    const std::atomic<std::int32_t>& done = done_[phase].value;
    for (auto count = done.load(std::memory_order_acquire); count < phases_[phase].count;
         count = done.load(std::memory_order_acquire)) {
      if (++spins < kSpins) {
        hwy::Pause();
      } else {
        done.wait(count, std::memory_order_acquire);
      }
    }
  }

  std::span<const Phase> phases_;
  std::int64_t workers_;
  std::vector<Part> parts_;
  std::vector<Counter> done_;
  std::int64_t scratch_bytes_ = kLineBytes; ///< of a worker
  hwy::AlignedFreeUniquePtr<char[]> scratch_;
};

} // namespace

void run_phases(std::span<const Phase> phases) {
  const std::int64_t workers = std::max(1, at::get_num_threads());
  PhaseRun phase_run(phases, workers);
  at::parallel_for(
      0, workers, 1, [&](std::int64_t begin, std::int64_t /*end*/) { phase_run.run(begin); });
}

} // namespace baton::ops::cpu
