// SPDX-License-Identifier: Apache-2.0
#include "baton/base/random.h"

#include <cmath>
#include <numbers>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace baton {
namespace {

// The finalizer of SplitMix64: every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t value) {
  value += 0x9E3779B97F4A7C15ULL;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

double to_unit(std::uint32_t word) {
  return static_cast<double>(word >> 8) * 0x1.0p-24;
}

constexpr std::int64_t kGrain = 4096;

} // namespace

RandomKey RandomKey::with(std::string_view name) const {
  std::uint64_t value = mix(value_ ^ 0x6E616D65ULL);
  for (const char letter : name) {
    value = mix(value ^ static_cast<unsigned char>(letter));
  }
  return RandomKey(mix(value ^ name.size()));
}

RandomKey RandomKey::with(std::uint64_t number) const {
  return RandomKey(mix(mix(value_ ^ 0x6E756D62ULL) ^ number));
}

std::array<std::uint32_t, 4> philox(RandomKey key, std::uint64_t counter) {
  std::array<std::uint32_t, 4> state{
      static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), 0, 0};
  auto key_low = static_cast<std::uint32_t>(key.value());
  auto key_high = static_cast<std::uint32_t>(key.value() >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53U} * state[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57U} * state[2];
    state = {
        static_cast<std::uint32_t>(second >> 32) ^ state[1] ^ key_low,
        static_cast<std::uint32_t>(second),
        static_cast<std::uint32_t>(first >> 32) ^ state[3] ^ key_high,
        static_cast<std::uint32_t>(first)};
    key_low += 0x9E3779B9U;
    key_high += 0xBB67AE85U;
  }
  return state;
}

double uniform_at(RandomKey key, std::uint64_t index) {
  return to_unit(philox(key, index)[0]);
}

at::Tensor uniform(RandomKey key, at::IntArrayRef shape, double low, double high) {
  at::Tensor values = at::empty(shape, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  at::parallel_for(0, values.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      data[i] = low + (high - low) * uniform_at(key, static_cast<std::uint64_t>(i));
    }
  });
  return values;
}

at::Tensor normal(RandomKey key, at::IntArrayRef shape, double deviation) {
  at::Tensor values = at::empty(shape, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  at::parallel_for(0, values.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto words = philox(key, static_cast<std::uint64_t>(i));
      // Box and Muller; 1 - u lies in (0, 1], so the logarithm is finite.
      const double radius = std::sqrt(-2.0 * std::log(1.0 - to_unit(words[0])));
      data[i] = deviation * radius * std::cos(2.0 * std::numbers::pi * to_unit(words[1]));
    }
  });
  return values;
}

} // namespace baton
