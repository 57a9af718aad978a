// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/causal_conv1d_block.h"

#include <algorithm>
#include <cstdint>

#include "baton/ops/causal_conv1d.h"
#include "baton/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/causal_conv1d_block.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

// Tokens that share one load of the weights.
constexpr std::int64_t kGroup = 4;

// Channels at a time: the weights and the rows of a group stay in the nearest cache.
constexpr std::int64_t kChannelTile = 512;

/// A block, seen at some of its channels; row pointers begin at the first of them.
template <class T>
struct Tile {
  using S = vec::Sum<T>;

  const T* x(std::int64_t t) const {
    return first + (t >= 0 ? static_cast<const T*>(block.x) + t * block.x_stride
                           : static_cast<const T*>(block.history) +
                                 (t + block.width - 1) * block.history_stride);
  }
  const T* dy(std::int64_t t) const {
    return static_cast<const T*>(block.dy) + t * block.dy_stride + first;
  }
  T* out(std::int64_t t) const { return static_cast<T*>(block.out) + t * block.channels + first; }
  const S* weight(std::int64_t k) const {
    return static_cast<const S*>(block.weight_KC) + k * block.channels + first;
  }
  const S* bias() const { return static_cast<const S*>(block.bias_C) + first; }
  /// Gradient before the activation, kept between the two passes of the backward.
  S* dz(std::int64_t t) const {
    return static_cast<S*>(block.scratch) + (t - block.begin) * block.channels + first;
  }
  /// Row k of the weight's gradient; row K is the bias's.
  S* dparameter(std::int64_t k) const {
    return static_cast<S*>(block.dparameters_KC) + k * block.channels + first;
  }

  const ConvBlock& block;
  std::int64_t first;
  std::int64_t channels;
};

/// The input rows that `kTokens` outputs from `t` on see, oldest first.
template <class T, std::int64_t kTokens>
struct Inputs {
  Inputs(const Tile<T>& tile, std::int64_t t) {
    const std::int64_t before = tile.block.width - 1;
    for (std::int64_t i = 0; i < before + kTokens; ++i) {
      rows[i] = tile.x(t - before + i);
    }
  }
  const T* rows[kMaxConvWidth + kTokens - 1];
};

/// One vector of each token of a group.
template <class D>
struct GroupOf {
  hn::Vec<D> token0, token1, token2, token3;
};

template <class T, class D>
HWY_INLINE hn::Vec<D>
convolve_one(const Tile<T>& tile, const Inputs<T, 1>& inputs, D d, std::int64_t i) {
  auto sum = hn::LoadU(d, tile.bias() + i);
  for (std::int64_t k = 0; k < tile.block.width; ++k) {
    sum = hn::MulAdd(hn::LoadU(d, tile.weight(k) + i), vec::load(d, inputs.rows[k] + i), sum);
  }
  return sum;
}

template <class T, class D>
HWY_INLINE GroupOf<D>
convolve_group(const Tile<T>& tile, const Inputs<T, kGroup>& inputs, D d, std::int64_t i) {
  const auto bias = hn::LoadU(d, tile.bias() + i);
  GroupOf<D> sums{bias, bias, bias, bias};
  for (std::int64_t k = 0; k < tile.block.width; ++k) {
    const auto weight = hn::LoadU(d, tile.weight(k) + i);
    sums.token0 = hn::MulAdd(weight, vec::load(d, inputs.rows[k] + i), sums.token0);
    sums.token1 = hn::MulAdd(weight, vec::load(d, inputs.rows[k + 1] + i), sums.token1);
    sums.token2 = hn::MulAdd(weight, vec::load(d, inputs.rows[k + 2] + i), sums.token2);
    sums.token3 = hn::MulAdd(weight, vec::load(d, inputs.rows[k + 3] + i), sums.token3);
  }
  return sums;
}

template <class D>
HWY_INLINE hn::Vec<D> activate(D d, hn::Vec<D> sum, bool silu) {
  return silu ? vec::silu(d, sum) : sum;
}

template <class T>
void forward_tile(const Tile<T>& tile) {
  using S = vec::Sum<T>;
  const bool silu = tile.block.silu;
  std::int64_t t = tile.block.begin;
  for (; t + kGroup <= tile.block.end; t += kGroup) {
    const Inputs<T, kGroup> inputs(tile, t);
    vec::for_vectors<S>(tile.channels, [&](auto d, auto i) HWY_ATTR {
      const auto sums = convolve_group(tile, inputs, d, i);
      vec::store(d, activate(d, sums.token0, silu), tile.out(t) + i);
      vec::store(d, activate(d, sums.token1, silu), tile.out(t + 1) + i);
      vec::store(d, activate(d, sums.token2, silu), tile.out(t + 2) + i);
      vec::store(d, activate(d, sums.token3, silu), tile.out(t + 3) + i);
    });
  }
  for (; t < tile.block.end; ++t) {
    const Inputs<T, 1> inputs(tile, t);
    vec::for_vectors<S>(tile.channels, [&](auto d, auto i) HWY_ATTR {
      vec::store(d, activate(d, convolve_one(tile, inputs, d, i), silu), tile.out(t) + i);
    });
  }
}

/// Gradient before the activation, given the sum there.
template <class D>
HWY_INLINE hn::Vec<D> deactivate(D d, hn::Vec<D> dy, hn::Vec<D> sum) {
  return hn::Mul(dy, vec::silu_slope(d, sum, vec::sigmoid(d, sum)));
}

/// dz of one token; adds to the parameters' gradients when the token belongs to the block and not
/// to the halo behind it.
template <class T>
void activation_gradient_one(const Tile<T>& tile, std::int64_t t) {
  using S = vec::Sum<T>;
  const Inputs<T, 1> inputs(tile, t);
  const bool own = t < tile.block.end;
  const std::int64_t width = tile.block.width;
  vec::for_vectors<S>(tile.channels, [&](auto d, auto i) HWY_ATTR {
    auto dz = vec::load(d, tile.dy(t) + i);
    if (tile.block.silu) {
      dz = deactivate(d, dz, convolve_one(tile, inputs, d, i));
    }
    hn::StoreU(dz, d, tile.dz(t) + i);
    if (!own) {
      return;
    }
    for (std::int64_t k = 0; k < width; ++k) {
      S* dweight = tile.dparameter(k) + i;
      const auto input = vec::load(d, inputs.rows[k] + i);
      hn::StoreU(hn::MulAdd(dz, input, hn::LoadU(d, dweight)), d, dweight);
    }
    S* dbias = tile.dparameter(width) + i;
    hn::StoreU(hn::Add(dz, hn::LoadU(d, dbias)), d, dbias);
  });
}

/// As `activation_gradient_one` for a group of the block's own tokens.
template <class T>
void activation_gradient_group(const Tile<T>& tile, std::int64_t t) {
  using S = vec::Sum<T>;
  const Inputs<T, kGroup> inputs(tile, t);
  const std::int64_t width = tile.block.width;
  vec::for_vectors<S>(tile.channels, [&](auto d, auto i) HWY_ATTR {
    GroupOf<decltype(d)> dz{
        vec::load(d, tile.dy(t) + i),
        vec::load(d, tile.dy(t + 1) + i),
        vec::load(d, tile.dy(t + 2) + i),
        vec::load(d, tile.dy(t + 3) + i)};
    if (tile.block.silu) {
      const auto sums = convolve_group(tile, inputs, d, i);
      dz.token0 = deactivate(d, dz.token0, sums.token0);
      dz.token1 = deactivate(d, dz.token1, sums.token1);
      dz.token2 = deactivate(d, dz.token2, sums.token2);
      dz.token3 = deactivate(d, dz.token3, sums.token3);
    }
    hn::StoreU(dz.token0, d, tile.dz(t) + i);
    hn::StoreU(dz.token1, d, tile.dz(t + 1) + i);
    hn::StoreU(dz.token2, d, tile.dz(t + 2) + i);
    hn::StoreU(dz.token3, d, tile.dz(t + 3) + i);
    for (std::int64_t k = 0; k < width; ++k) {
      S* dweight = tile.dparameter(k) + i;
      auto sum = hn::LoadU(d, dweight);
      sum = hn::MulAdd(dz.token0, vec::load(d, inputs.rows[k] + i), sum);
      sum = hn::MulAdd(dz.token1, vec::load(d, inputs.rows[k + 1] + i), sum);
      sum = hn::MulAdd(dz.token2, vec::load(d, inputs.rows[k + 2] + i), sum);
      sum = hn::MulAdd(dz.token3, vec::load(d, inputs.rows[k + 3] + i), sum);
      hn::StoreU(sum, d, dweight);
    }
    S* dbias = tile.dparameter(width) + i;
    const auto pair = hn::Add(hn::Add(dz.token0, dz.token1), hn::Add(dz.token2, dz.token3));
    hn::StoreU(hn::Add(pair, hn::LoadU(d, dbias)), d, dbias);
  });
}

/// Gradient of input row `t`: from the outputs that see it, and from the final state.
template <class T, class Out>
void input_gradient_one(const Tile<T>& tile, std::int64_t t, Out* out) {
  using S = vec::Sum<T>;
  const ConvBlock& block = tile.block;
  const std::int64_t column = t - block.length + block.width - 1;
  const S* dfinal =
      block.dfinal_KC != nullptr && column >= 0
          ? static_cast<const S*>(block.dfinal_KC) + column * block.channels + tile.first
          : nullptr;
  const std::int64_t first_tap = std::max<std::int64_t>(0, t + block.width - block.length);
  const std::int64_t last_tap = std::min(block.width - 1, t + block.width - 1);
  vec::for_vectors<S>(tile.channels, [&](auto d, auto i) HWY_ATTR {
    auto sum = dfinal != nullptr ? hn::LoadU(d, dfinal + i) : hn::Zero(d);
    for (std::int64_t k = first_tap; k <= last_tap; ++k) {
      const auto dz = hn::LoadU(d, tile.dz(t + block.width - 1 - k) + i);
      sum = hn::MulAdd(hn::LoadU(d, tile.weight(k) + i), dz, sum);
    }
    vec::store(d, sum, out + i);
  });
}

/// As `input_gradient_one` for a group of rows that all K outputs see and no final state holds.
template <class T>
void input_gradient_group(const Tile<T>& tile, std::int64_t t) {
  const std::int64_t width = tile.block.width;
  vec::for_vectors<vec::Sum<T>>(tile.channels, [&](auto d, auto i) HWY_ATTR {
    const auto zero = hn::Zero(d);
    GroupOf<decltype(d)> sums{zero, zero, zero, zero};
    for (std::int64_t k = 0; k < width; ++k) {
      const auto weight = hn::LoadU(d, tile.weight(k) + i);
      const std::int64_t seen = t + width - 1 - k;
      sums.token0 = hn::MulAdd(weight, hn::LoadU(d, tile.dz(seen) + i), sums.token0);
      sums.token1 = hn::MulAdd(weight, hn::LoadU(d, tile.dz(seen + 1) + i), sums.token1);
      sums.token2 = hn::MulAdd(weight, hn::LoadU(d, tile.dz(seen + 2) + i), sums.token2);
      sums.token3 = hn::MulAdd(weight, hn::LoadU(d, tile.dz(seen + 3) + i), sums.token3);
    }
    vec::store(d, sums.token0, tile.out(t) + i);
    vec::store(d, sums.token1, tile.out(t + 1) + i);
    vec::store(d, sums.token2, tile.out(t + 2) + i);
    vec::store(d, sums.token3, tile.out(t + 3) + i);
  });
}

template <class T>
void backward_tile(const Tile<T>& tile) {
  using S = vec::Sum<T>;
  const ConvBlock& block = tile.block;
  const std::int64_t halo_end = std::min(block.end + block.width - 1, block.length);
  std::int64_t t = block.begin;
  for (; t + kGroup <= block.end; t += kGroup) {
    activation_gradient_group(tile, t);
  }
  for (; t < halo_end; ++t) {
    activation_gradient_one(tile, t);
  }
  t = block.begin;
  for (; t + kGroup <= block.end && t + kGroup + block.width - 1 <= block.length; t += kGroup) {
    input_gradient_group(tile, t);
  }
  for (; t < block.end; ++t) {
    input_gradient_one(tile, t, tile.out(t));
  }
  if (block.begin == 0 && block.dhistory_KC != nullptr) {
    S* dhistory = static_cast<S*>(block.dhistory_KC) + tile.first;
    for (std::int64_t column = 0; column < block.width - 1; ++column) {
      input_gradient_one(tile, column - block.width + 1, dhistory + column * block.channels);
    }
  }
}

template <class F>
void for_tiles(const ConvBlock& block, const F& f) {
  vec::with_type(block.dtype, [&](auto type) {
    for (std::int64_t first = 0; first < block.channels; first += kChannelTile) {
      f(Tile<decltype(type)>{block, first, std::min(kChannelTile, block.channels - first)});
    }
  });
}

void forward_block(const ConvBlock& block) {
  for_tiles(block, [](const auto& tile) { forward_tile(tile); });
}

void backward_block(const ConvBlock& block) {
  for_tiles(block, [](const auto& tile) { backward_tile(tile); });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops {

HWY_EXPORT(forward_block);
HWY_EXPORT(backward_block);

void convolve_block(const ConvBlock& block) {
  HWY_DYNAMIC_DISPATCH(forward_block)(block);
}

void convolve_block_backward(const ConvBlock& block) {
  HWY_DYNAMIC_DISPATCH(backward_block)(block);
}

} // namespace baton::ops
#endif
