// SPDX-License-Identifier: Apache-2.0
// CUDA's device language for g++: a block of threads runs as fibers of one thread, so that kernels
// can be tested where there is no GPU. Included before device code by the emulator's compile
// command.
//
// A fiber runs until it waits at a barrier or for the other lanes of its warp; which runs next is
// drawn anew each time, so that a missing barrier shows. Dynamic shared memory begins as NaNs, ends
// at a page that may not be touched, and asynchronous copies land as late as they may.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_bf16.h>
#include <sys/mman.h>
#include <ucontext.h>

#undef __shared__
#undef __launch_bounds__
#undef __global__
#undef __device__
#undef __forceinline__
#define __shared__ static
#define __launch_bounds__(...)
#define __global__
#define __device__
#define __forceinline__ inline

#include "emulator/arithmetic.h"
#include "emulator/shape.h"

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulator {

constexpr int kLanes = 32;
constexpr std::size_t kStackBytes = 256 << 10;
constexpr std::size_t kPage = 4096;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(
      stderr,
      "emulator: %s (block %u %u %u, thread %u)\n",
      what,
      blockIdx.x,
      blockIdx.y,
      blockIdx.z,
      threadIdx.x);
  std::abort();
}

struct AsyncCopy {
  void* to;
  const void* from;
  int bytes;
  int size; ///< of the place, which is zero beyond the bytes
};

enum class Wait { kNothing, kBlock, kWarp, kDone };

struct Fiber {
  uint3 index;
  jmp_buf state;
  ucontext_t first;
  std::vector<char> stack;
  bool started = false;
  Wait wait = Wait::kNothing;
  void* arguments = nullptr; // of the warp's collective operation that this lane waits for
  std::deque<std::vector<AsyncCopy>> groups;
  std::vector<AsyncCopy> open_group;
};

/// A collective operation of a warp: gets the arguments of its lanes, null of those that have
/// ended.
using Collective = void (*)(std::array<void*, kLanes>& arguments);

struct Block {
  std::vector<Fiber> fibers;
  jmp_buf scheduler;
  Fiber* running = nullptr;
  std::function<void()> body;
  std::vector<Collective> collective_of_warp;
  std::mt19937 random{1};
  unsigned char* shared = nullptr;

  void run(unsigned threads);
  void yield(Wait wait);
  bool release();
};

inline Block block;

inline void fiber_main() {
  block.body();
  block.running->wait = Wait::kDone;
  _longjmp(block.scheduler, 1);
}

inline void Block::yield(Wait wait) {
  running->wait = wait;
  if (_setjmp(running->state) == 0) {
    _longjmp(scheduler, 1);
  }
}

// Lets those go on who wait for something that has come. Returns whether there were any.
inline bool Block::release() {
  bool any = false;
  for (std::size_t warp = 0; warp < collective_of_warp.size(); ++warp) {
    std::array<void*, kLanes> arguments{};
    int waiting = 0;
    int alive = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::size_t at = warp * kLanes + static_cast<std::size_t>(lane);
      if (at >= fibers.size() || fibers[at].wait == Wait::kDone) {
        continue;
      }
      ++alive;
      if (fibers[at].wait == Wait::kWarp) {
        ++waiting;
        arguments[static_cast<std::size_t>(lane)] = fibers[at].arguments;
      }
    }
    if (waiting > 0 && waiting == alive) {
      collective_of_warp[warp](arguments);
      collective_of_warp[warp] = nullptr;
      for (std::size_t at = warp * kLanes; at < std::min((warp + 1) * kLanes, fibers.size());
           ++at) {
        if (fibers[at].wait == Wait::kWarp) {
          fibers[at].wait = Wait::kNothing;
        }
      }
      any = true;
    }
  }
  if (any) {
    return true;
  }
  int waiting = 0;
  int alive = 0;
  for (const Fiber& fiber : fibers) {
    alive += fiber.wait != Wait::kDone ? 1 : 0;
    waiting += fiber.wait == Wait::kBlock ? 1 : 0;
  }
  if (waiting == 0 || waiting != alive) {
    return false;
  }
  for (Fiber& fiber : fibers) {
    if (fiber.wait == Wait::kBlock) {
      fiber.wait = Wait::kNothing;
    }
  }
  return true;
}

inline void Block::run(unsigned threads) {
  if (fibers.size() != threads) {
    fibers = std::vector<Fiber>(threads);
    for (Fiber& fiber : fibers) {
      fiber.stack.resize(kStackBytes);
    }
  }
  collective_of_warp.assign((threads + kLanes - 1) / kLanes, nullptr);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    fiber.started = false;
    fiber.wait = Wait::kNothing;
    fiber.groups.clear();
    fiber.open_group.clear();
  }
  std::vector<unsigned> order(threads);
  for (unsigned i = 0; i < threads; ++i) {
    order[i] = i;
  }
  volatile bool alive = true;
  while (alive) {
    std::shuffle(order.begin(), order.end(), random);
    volatile bool ran = false;
    for (volatile unsigned at = 0; at < threads; at = at + 1) {
      Fiber& fiber = fibers[order[at]];
      if (fiber.wait != Wait::kNothing) {
        continue;
      }
      ran = true;
      running = &fiber;
      threadIdx = fiber.index;
      if (_setjmp(scheduler) == 0) {
        if (fiber.started) {
          _longjmp(fiber.state, 1);
        }
        fiber.started = true;
        getcontext(&fiber.first);
        fiber.first.uc_stack.ss_sp = fiber.stack.data();
        fiber.first.uc_stack.ss_size = fiber.stack.size();
        fiber.first.uc_link = nullptr;
        makecontext(&fiber.first, &fiber_main, 0);
        setcontext(&fiber.first);
      }
    }
    if (ran) {
      continue;
    }
    if (!release()) {
      alive = false;
    }
  }
  for (const Fiber& fiber : fibers) {
    if (fiber.wait != Wait::kDone) {
      threadIdx = fiber.index;
      fail("threads wait for others that never come: a barrier or a warp's operation in a branch");
    }
  }
}

/// All lanes of the calling warp do `operation` together.
inline void collective(Collective operation, void* arguments) {
  Fiber& fiber = *block.running;
  const std::size_t linear =
      (fiber.index.z * blockDim.y + fiber.index.y) * blockDim.x + fiber.index.x;
  Collective& current = block.collective_of_warp[linear / kLanes];
  if (current != nullptr && current != operation) {
    fail("lanes of a warp do different operations at once");
  }
  current = operation;
  fiber.arguments = arguments;
  block.yield(Wait::kWarp);
}

template <typename T>
struct Exchange {
  T value;
  T result;
  int lane; // whose value is asked for
};

template <typename T>
void exchange(std::array<void*, kLanes>& arguments) {
  for (void* each : arguments) {
    if (each == nullptr) {
      continue;
    }
    auto* mine = static_cast<Exchange<T>*>(each);
    const auto* other =
        static_cast<Exchange<T>*>(arguments[static_cast<std::size_t>(mine->lane & 31)]);
    if (other == nullptr) {
      fail("a shuffle reads a lane that has ended");
    }
    mine->result = other->value;
  }
}

inline int lane() {
  return static_cast<int>(
      ((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) % kLanes);
}

template <typename T>
T shuffle(T value, int from) {
  Exchange<T> mine{value, value, from};
  collective(&exchange<T>, &mine);
  return mine.result;
}

inline void nothing(std::array<void*, kLanes>& /*arguments*/) {}

/// Memory of `bytes` that ends (but for what alignment takes) at a page nobody may touch.
inline unsigned char* guarded(std::size_t bytes) {
  static unsigned char* base = nullptr;
  static std::size_t mapped = 0;
  if (base != nullptr) {
    munmap(base, mapped);
  }
  const std::size_t data = (bytes + kPage - 1) / kPage * kPage + kPage;
  mapped = data + kPage;
  base = static_cast<unsigned char*>(
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(base + data, kPage, PROT_NONE);
  return base + data - (bytes + 127) / 128 * 128;
}

template <typename... Parameters, std::size_t... I>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...> /*places*/) {
  kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
}

template <typename T>
constexpr Kind kind_of() {
  return std::is_pointer_v<T>          ? Kind::kPointer
         : std::is_floating_point_v<T> ? Kind::kFloating
         : std::is_integral_v<T>       ? Kind::kIntegral
                                       : Kind::kOther;
}

template <typename... Parameters>
void launch(
    void (*kernel)(Parameters...),
    const Shape& shape,
    void** arguments,
    const Argument* given,
    std::size_t count) {
  const std::array<Argument, sizeof...(Parameters) + 1> wanted = {
      Argument{sizeof(Parameters), kind_of<Parameters>()}..., Argument{}};
  if (count != sizeof...(Parameters)) {
    fail("a launch passes another number of arguments than the kernel takes");
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (given[i].bytes != wanted[i].bytes || given[i].kind != wanted[i].kind) {
      std::fprintf(stderr, "argument %zu:\n", i);
      fail("a launch passes an argument of another type than the kernel takes");
    }
  }
  blockDim = {shape.block[0], shape.block[1], shape.block[2]};
  gridDim = {shape.grid[0], shape.grid[1], shape.grid[2]};
  if (shape.block[0] * shape.block[1] * shape.block[2] > 1024 || shape.grid[1] > 65535 ||
      shape.grid[2] > 65535 || shape.shared_bytes > (227 << 10) || shape.grid[0] == 0 ||
      shape.grid[1] == 0 || shape.grid[2] == 0) {
    fail("a launch that no device takes");
  }
  block.shared = guarded(shape.shared_bytes);
  block.body = [=] { call(kernel, arguments, std::index_sequence_for<Parameters...>()); };
  for (unsigned z = 0; z < shape.grid[2]; ++z) {
    for (unsigned y = 0; y < shape.grid[1]; ++y) {
      for (unsigned x = 0; x < shape.grid[0]; ++x) {
        blockIdx = {x, y, z};
        std::memset(block.shared, 0xff, shape.shared_bytes);
        block.run(shape.block[0] * shape.block[1] * shape.block[2]);
      }
    }
  }
}

} // namespace emulator

inline void __syncthreads() {
  emulator::block.yield(emulator::Wait::kBlock);
}
inline void __syncwarp(unsigned /*mask*/ = 0xffffffffu) {
  emulator::collective(&emulator::nothing, nullptr);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_xor_sync(unsigned /*mask*/, T value, int mask, int /*width*/ = 32) {
  return emulator::shuffle(value, emulator::lane() ^ mask);
}
template <typename T>
T __shfl_sync(unsigned /*mask*/, T value, int from, int width = 32) {
  const int lane = emulator::lane();
  return emulator::shuffle(value, lane / width * width + from % width);
}
template <typename T>
T __shfl_up_sync(unsigned /*mask*/, T value, unsigned by, int width = 32) {
  const int lane = emulator::lane();
  const int from = lane % width - static_cast<int>(by);
  return emulator::shuffle(value, from < 0 ? lane : lane - static_cast<int>(by));
}
template <typename T>
T __shfl_down_sync(unsigned /*mask*/, T value, unsigned by, int width = 32) {
  const int lane = emulator::lane();
  const int from = lane % width + static_cast<int>(by);
  return emulator::shuffle(value, from >= width ? lane : lane + static_cast<int>(by));
}
struct EmulatorVote {
  unsigned predicate;
  unsigned result;
};
inline unsigned __ballot_sync(unsigned /*mask*/, int predicate) {
  EmulatorVote mine{predicate != 0 ? 1u : 0u, 0};
  emulator::collective(
      +[](std::array<void*, emulator::kLanes>& arguments) {
        unsigned all = 0;
        for (std::size_t i = 0; i < arguments.size(); ++i) {
          if (arguments[i] != nullptr) {
            all |= static_cast<EmulatorVote*>(arguments[i])->predicate << i;
          }
        }
        for (void* each : arguments) {
          if (each != nullptr) {
            static_cast<EmulatorVote*>(each)->result = all;
          }
        }
      },
      &mine);
  return mine.result;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate == 0 ? 1 : 0) == 0 ? 1 : 0;
}
inline int __syncthreads_or(int predicate) {
  static int any[2];
  static int turn = 0;
  static unsigned arrived = 0;
  const int mine = turn;
  if (arrived == 0) {
    any[mine] = 0;
  }
  any[mine] |= predicate;
  if (++arrived == blockDim.x * blockDim.y * blockDim.z) {
    arrived = 0;
    turn ^= 1;
  }
  __syncthreads();
  return any[mine];
}
