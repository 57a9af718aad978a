// SPDX-License-Identifier: Apache-2.0
// CPU kernel of rotary.
#include "baton/ops/rotary.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/cpu/rotary.h"
#include "baton/ops/cpu/row_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/rotary.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

/// Cosines and sines of one token's angles. Angles are fp64 and brought near zero there: at a
/// million positions an fp32 angle would be off by a tenth of a turn.
template <class S>
void fill_angles(const RotaryHeads& task, std::int64_t position, S* cosines, S* sines) {
  constexpr double kTurn = 6.283185307179586;
  constexpr double kTurnRest = 2.4492935982947064e-16; // of two pi beyond the fp64 number
  vec::for_vectors<double>(task.pairs, [&](auto d, auto i) HWY_ATTR {
    const hn::Rebind<S, decltype(d)> ds;
    const auto angle =
        hn::Mul(hn::Set(d, static_cast<double>(position)), hn::LoadU(d, task.frequencies + i));
    const auto turns = hn::Round(hn::Mul(angle, hn::Set(d, 1.0 / kTurn)));
    const auto near = hn::NegMulAdd(turns, hn::Set(d, kTurn), angle);
    const auto reduced = hn::NegMulAdd(turns, hn::Set(d, kTurnRest), near);
    const auto factor = hn::Set(ds, static_cast<S>(task.attention_factor));
    if constexpr (std::is_same_v<S, double>) {
      hn::StoreU(hn::Mul(hn::Cos(ds, reduced), factor), ds, cosines + i);
      hn::StoreU(hn::Mul(hn::Sin(ds, reduced), factor), ds, sines + i);
    } else {
      const auto narrow = hn::DemoteTo(ds, reduced);
      hn::StoreU(hn::Mul(hn::Cos(ds, narrow), factor), ds, cosines + i);
      hn::StoreU(hn::Mul(hn::Sin(ds, narrow), factor), ds, sines + i);
    }
  });
}

/// Pairs (i, i + pairs).
template <class T, class S>
void turn_halves(const T* x, const S* cosines, const S* sines, std::int64_t pairs, T* y) {
  vec::for_vectors<S>(pairs, [&](auto d, auto i) HWY_ATTR {
    const auto cosine = hn::LoadU(d, cosines + i);
    const auto sine = hn::LoadU(d, sines + i);
    const auto a = vec::load(d, x + i);
    const auto b = vec::load(d, x + pairs + i);
    vec::store(d, hn::MulSub(a, cosine, hn::Mul(b, sine)), y + i);
    vec::store(d, hn::MulAdd(b, cosine, hn::Mul(a, sine)), y + pairs + i);
  });
}

/// Pairs (2i, 2i + 1); `cosines` and `sines` hold a value a channel, the even sines negated.
template <class T, class S>
void turn_neighbours(const T* x, const S* cosines, const S* sines, std::int64_t pairs, T* y) {
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR // a vector of one lane has no neighbours
  const hn::ScalableTag<S> d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  for (; i + step <= 2 * pairs; i += step) {
    const auto value = vec::load(d, x + i);
    const auto crossed = hn::Mul(hn::Reverse2(d, value), hn::LoadU(d, sines + i));
    vec::store(d, hn::MulAdd(value, hn::LoadU(d, cosines + i), crossed), y + i);
  }
#endif
  for (; i < 2 * pairs; i += 2) {
    const auto a = static_cast<S>(x[i]);
    const auto b = static_cast<S>(x[i + 1]);
    y[i] = static_cast<T>(a * cosines[i] + b * sines[i]);
    y[i + 1] = static_cast<T>(b * cosines[i + 1] + a * sines[i + 1]);
  }
}

/// Spreads a table of pairs over their two channels, from the back because it grows in place.
template <class S>
void spread_to_channels(std::int64_t pairs, S* cosines, S* sines) {
  for (std::int64_t i = pairs - 1; i >= 0; --i) {
    const S cosine = cosines[i];
    const S sine = sines[i];
    cosines[2 * i] = cosine;
    cosines[2 * i + 1] = cosine;
    sines[2 * i] = -sine;
    sines[2 * i + 1] = sine;
  }
}

template <class T>
void turn_tokens_of(const RotaryHeads& task, std::int64_t begin, std::int64_t end) {
  using S = vec::Sum<T>;
  const std::int64_t turning = 2 * task.pairs;
  std::vector<S> table(static_cast<std::size_t>(2 * turning));
  S* cosines = table.data();
  S* sines = table.data() + turning;
  for (std::int64_t t = begin; t < end; ++t) {
    fill_angles(task, task.positions[t], cosines, sines);
    if (task.interleaved) {
      spread_to_channels(task.pairs, cosines, sines);
    }
    for (std::int64_t h = 0; h < task.num_heads; ++h) {
      const T* x = static_cast<const T*>(task.x) + t * task.token_stride + h * task.head_stride;
      T* y = static_cast<T*>(task.y) + (t * task.num_heads + h) * task.head_dim;
      if (task.interleaved) {
        turn_neighbours(x, cosines, sines, task.pairs, y);
      } else {
        turn_halves(x, cosines, sines, task.pairs, y);
      }
      std::copy(x + turning, x + task.head_dim, y + turning);
    }
  }
}

void turn_tokens(const RotaryHeads& task, std::int64_t begin, std::int64_t end) {
  vec::with_type(task.dtype, [&](auto type) { turn_tokens_of<decltype(type)>(task, begin, end); });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops {
namespace {

HWY_EXPORT(turn_tokens);

at::Tensor rotary_cpu(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double attention_factor,
    bool interleaved) {
  check_rotary(x_THP, positions_T, inverse_frequencies);
  const bool dense_heads = x_THP.size(2) <= 1 || x_THP.stride(2) == 1;
  const at::Tensor x = dense_heads ? x_THP : x_THP.contiguous();
  const at::Tensor positions = positions_T.contiguous();
  const at::Tensor frequencies = inverse_frequencies.to(at::kDouble).contiguous();
  at::Tensor y_THP = at::empty(x_THP.sizes(), x_THP.options());
  const RotaryHeads task{
      .dtype = x.scalar_type(),
      .x = x.const_data_ptr(),
      .y = y_THP.mutable_data_ptr(),
      .positions = positions.const_data_ptr<std::int64_t>(),
      .frequencies = frequencies.const_data_ptr<double>(),
      .pairs = frequencies.size(0),
      .num_heads = x.size(1),
      .head_dim = x.size(2),
      .token_stride = x.stride(0),
      .head_stride = x.stride(1),
      .attention_factor = attention_factor,
      .interleaved = interleaved};
  at::parallel_for(
      0,
      x.size(0),
      rows_per_block(x.size(1) * x.size(2)),
      [&](std::int64_t begin, std::int64_t end) { rotary_tokens(task, begin, end); });
  return y_THP;
}

} // namespace

void rotary_tokens(const RotaryHeads& task, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(turn_tokens)(task, begin, end);
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("rotary", rotary_cpu);
}

} // namespace baton::ops
#endif
