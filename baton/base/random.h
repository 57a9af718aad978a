// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: every value is a function of a key and an index, never of a rank,
// a thread or the order of calls.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace baton {

/// A 64-bit key: (seed, purpose, name) and whatever else it is derived with.
class RandomKey {
 public:
  explicit RandomKey(std::uint64_t seed) : value_(seed) {}

  /// A new key that also depends on `name` (a purpose, a parameter's or layer's name).
  RandomKey with(std::string_view name) const;
  /// A new key that also depends on `number` (a step, a microbatch's global index).
  RandomKey with(std::uint64_t number) const;

  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_;
};

/// Four random words for a counter: Philox 4x32 with ten rounds (Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", 2011).
std::array<std::uint32_t, 4> philox(RandomKey key, std::uint64_t counter);

/// Uniform in [0, 1) with 24 bits, a function of (key, index).
double uniform_at(RandomKey key, std::uint64_t index);

/// Uniform in [low, high), value i a function of (key, i) in row-major order. fp64 of `shape`.
at::Tensor uniform(RandomKey key, at::IntArrayRef shape, double low, double high);

/// Normal with mean 0, value i a function of (key, i) in row-major order. fp64 of `shape`.
at::Tensor normal(RandomKey key, at::IntArrayRef shape, double deviation);

} // namespace baton
