// SPDX-License-Identifier: Apache-2.0
// The instructions of baton/ops/cuda/mma.cuh as the emulator does them, with the PTX ISA's layouts.
#pragma once

#include <cuda_bf16.h>

namespace baton {

using Accumulator = float[4];
using LeftFragment = unsigned[4];
using RightFragment = unsigned[2];

namespace emulated {

inline float half_of(unsigned pair, int which) {
  const unsigned bits = which == 0 ? pair << 16 : pair & 0xffff0000u;
  return __uint_as_float(bits);
}

struct Product {
  float* d;
  const unsigned* a;
  const unsigned* b;
};

inline void multiply(std::array<void*, emulator::kLanes>& arguments) {
  float a[16][16];
  float b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* mine = static_cast<Product*>(arguments[static_cast<std::size_t>(lane)]);
    if (mine == nullptr) {
      emulator::fail("a product of a warp of which lanes have ended");
    }
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int half = 0; half < 2; ++half) {
        a[lane / 4 + quarter % 2 * 8][lane % 4 * 2 + half + quarter / 2 * 8] =
            half_of(mine->a[quarter], half);
      }
    }
    for (int part = 0; part < 2; ++part) {
      for (int half = 0; half < 2; ++half) {
        b[lane % 4 * 2 + half + part * 8][lane / 4] = half_of(mine->b[part], half);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto* mine = static_cast<Product*>(arguments[static_cast<std::size_t>(lane)]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8;
      const int column = lane % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += a[row][k] * b[k][column];
      }
      mine->d[i] += sum;
    }
  }
}

struct TileLoad {
  unsigned* to;
  const void* row;
  bool transposed;
};

inline void load(std::array<void*, emulator::kLanes>& arguments) {
  const auto value = [&](int tile, int row, int column) {
    const auto* lane = static_cast<TileLoad*>(arguments[static_cast<std::size_t>(8 * tile + row)]);
    if (lane == nullptr || reinterpret_cast<std::uintptr_t>(lane->row) % 16 != 0) {
      emulator::fail("a row of a tile lies at no multiple of 16 bytes");
    }
    unsigned short bits;
    std::memcpy(&bits, static_cast<const char*>(lane->row) + 2 * column, sizeof bits);
    return static_cast<unsigned>(bits);
  };
  for (int lane = 0; lane < 32; ++lane) {
    auto* mine = static_cast<TileLoad*>(arguments[static_cast<std::size_t>(lane)]);
    const int row = lane / 4;
    const int column = lane % 4 * 2;
    for (int tile = 0; tile < 4; ++tile) {
      mine->to[tile] = mine->transposed
                           ? value(tile, column, row) | value(tile, column + 1, row) << 16
                           : value(tile, row, column) | value(tile, row, column + 1) << 16;
    }
  }
}

} // namespace emulated

inline void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulated::Product mine{d, a, b};
  emulator::collective(&emulated::multiply, &mine);
}

inline void load_tiles(unsigned (&to)[4], const void* row) {
  emulated::TileLoad mine{to, row, false};
  emulator::collective(&emulated::load, &mine);
}

inline void load_tiles_transposed(unsigned (&to)[4], const void* row) {
  emulated::TileLoad mine{to, row, true};
  emulator::collective(&emulated::load, &mine);
}

inline void copy_async(void* to_shared, const void* from, int bytes) {
  if (reinterpret_cast<std::uintptr_t>(to_shared) % 16 != 0 ||
      (bytes != 0 && reinterpret_cast<std::uintptr_t>(from) % 16 != 0)) {
    emulator::fail("an asynchronous copy from or to no multiple of 16 bytes");
  }
  emulator::block.running->open_group.push_back({to_shared, from, bytes, 16});
}

template <int kBytes>
inline void copy_bytes_async(void* to_shared, const void* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if (reinterpret_cast<std::uintptr_t>(to_shared) % kBytes != 0 ||
      reinterpret_cast<std::uintptr_t>(from) % kBytes != 0) {
    emulator::fail("an asynchronous copy from or to no multiple of its bytes");
  }
  emulator::block.running->open_group.push_back({to_shared, from, kBytes, kBytes});
}

inline void commit_copies() {
  emulator::Fiber& fiber = *emulator::block.running;
  fiber.groups.push_back(std::move(fiber.open_group));
  fiber.open_group.clear();
}

template <int kGroups>
inline void wait_for_copies() {
  auto& groups = emulator::block.running->groups;
  while (groups.size() > kGroups) {
    for (const emulator::AsyncCopy& copy : groups.front()) {
      std::memset(copy.to, 0, static_cast<std::size_t>(copy.size));
      if (copy.bytes > 0) {
        std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
      }
    }
    groups.pop_front();
  }
}

inline unsigned pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  unsigned bits;
  std::memcpy(&bits, &pair, sizeof bits);
  return bits;
}

} // namespace baton
