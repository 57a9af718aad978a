// SPDX-License-Identifier: Apache-2.0
// CPU kernel of dropout: Philox on vectors of counters, four random words a counter.
#include "baton/ops/dropout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/cpu/row_blocks.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/dropout.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

#ifndef BATON_OPS_CPU_DROPOUT_ONCE
#define BATON_OPS_CPU_DROPOUT_ONCE
namespace baton::ops {

/// Rows of one call; strides count values. The output is dense.
struct DropoutRows {
  c10::ScalarType dtype;
  const void* x;
  void* y;
  std::int64_t channels;
  std::int64_t x_stride;
  std::uint64_t key;
  std::uint64_t first_row;
  std::uint32_t threshold; ///< an element whose 24 random bits are below it is dropped
  double scale;
};

/// Values that share one buffer of random words.
inline constexpr std::int64_t kDropoutTile = 1024;

} // namespace baton::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> product_of_low_halves(D d, hn::Vec<D> value, std::uint32_t factor) {
#if HWY_TARGET == HWY_SCALAR // a vector of one lane has no halves
  return hn::Set(d, (hn::GetLane(value) & 0xFFFFFFFFU) * std::uint64_t{factor});
#else
  const hn::Repartition<std::uint32_t, D> d32;
  return hn::MulEven(hn::BitCast(d32, value), hn::Set(d32, factor));
#endif
}

/// The words of `philox` for counters first, first + 1, ..., at least `count` words; writes whole
/// vectors. Each 64-bit lane holds one counter's 32-bit word: products read only the low half, so
/// what gathers in the high half does no harm.
void fill_words(
    std::uint64_t key,
    std::uint64_t first,
    std::int64_t count,
    std::uint32_t* HWY_RESTRICT words) {
  const hn::ScalableTag<std::uint64_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; 4 * i < count; i += lanes) {
    auto word0 = hn::Add(hn::Iota(d, 0), hn::Set(d, first + static_cast<std::uint64_t>(i)));
    auto word1 = hn::ShiftRight<32>(word0);
    auto word2 = hn::Zero(d);
    auto word3 = hn::Zero(d);
    auto key_low = static_cast<std::uint32_t>(key);
    auto key_high = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const auto from0 = product_of_low_halves(d, word0, 0xD2511F53U);
      const auto from2 = product_of_low_halves(d, word2, 0xCD9E8D57U);
      word0 =
          hn::Xor(hn::Xor(hn::ShiftRight<32>(from2), word1), hn::Set(d, std::uint64_t{key_low}));
      word1 = from2;
      word2 =
          hn::Xor(hn::Xor(hn::ShiftRight<32>(from0), word3), hn::Set(d, std::uint64_t{key_high}));
      word3 = from0;
      key_low += 0x9E3779B9U;
      key_high += 0xBB67AE85U;
    }
#if HWY_TARGET == HWY_SCALAR
    words[4 * i] = static_cast<std::uint32_t>(hn::GetLane(word0));
    words[4 * i + 1] = static_cast<std::uint32_t>(hn::GetLane(word1));
    words[4 * i + 2] = static_cast<std::uint32_t>(hn::GetLane(word2));
    words[4 * i + 3] = static_cast<std::uint32_t>(hn::GetLane(word3));
#else
    const auto low_half = hn::Set(d, std::uint64_t{0xFFFFFFFFU});
    const auto pair01 = hn::Or(hn::And(word0, low_half), hn::ShiftLeft<32>(word1));
    const auto pair23 = hn::Or(hn::And(word2, low_half), hn::ShiftLeft<32>(word3));
    hn::StoreInterleaved2(pair01, pair23, d, reinterpret_cast<std::uint64_t*>(words + 4 * i));
#endif
  }
}

/// True in the lanes whose 24 random bits are not below the threshold.
template <class D>
HWY_INLINE hn::Mask<D> kept(D d, const std::uint32_t* words, std::uint32_t threshold) {
  const hn::Rebind<std::uint32_t, D> d32;
  const auto bits = hn::ShiftRight<8>(hn::LoadU(d32, words));
  if constexpr (std::is_same_v<hn::TFromD<D>, double>) {
    const hn::Rebind<std::int64_t, D> wide;
    const hn::Rebind<std::uint64_t, D> unsigned_wide;
    const auto values = hn::BitCast(wide, hn::PromoteTo(unsigned_wide, bits));
    return hn::RebindMask(d, hn::Gt(values, hn::Set(wide, std::int64_t{threshold} - 1)));
  } else {
    const hn::Rebind<std::int32_t, D> narrow;
    const auto limit = hn::Set(narrow, static_cast<std::int32_t>(threshold) - 1);
    return hn::RebindMask(d, hn::Gt(hn::BitCast(narrow, bits), limit));
  }
}

template <class T>
void drop_rows_of(const DropoutRows& task, std::int64_t begin, std::int64_t end) {
  using S = vec::Sum<T>;
  // A tile may start within a counter, and the last vector of counters may run over.
  alignas(8) std::array<std::uint32_t, kDropoutTile + HWY_MAX_BYTES + 4> words{};
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t c = 0; c < task.channels; c += kDropoutTile) {
      const std::int64_t width = std::min(kDropoutTile, task.channels - c);
      const std::uint64_t index = (task.first_row + static_cast<std::uint64_t>(t)) *
                                      static_cast<std::uint64_t>(task.channels) +
                                  static_cast<std::uint64_t>(c);
      const auto skip = static_cast<std::int64_t>(index % 4);
      fill_words(task.key, index / 4, width + skip, words.data());
      const std::uint32_t* word = words.data() + skip;
      const T* x = static_cast<const T*>(task.x) + t * task.x_stride + c;
      T* y = static_cast<T*>(task.y) + t * task.channels + c;
      vec::for_vectors<S>(width, [&](auto d, auto i) HWY_ATTR {
        const auto scaled = hn::Mul(vec::load(d, x + i), hn::Set(d, static_cast<S>(task.scale)));
        vec::store(d, hn::IfThenElseZero(kept(d, word + i, task.threshold), scaled), y + i);
      });
    }
  }
}

void drop_rows(const DropoutRows& task, std::int64_t begin, std::int64_t end) {
  vec::with_type(task.dtype, [&](auto type) { drop_rows_of<decltype(type)>(task, begin, end); });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops {
namespace {

HWY_EXPORT(drop_rows);

at::Tensor dropout_cpu(const at::Tensor& x_TD, std::int64_t key, std::int64_t first_row, double p) {
  check_dropout(x_TD, first_row, p);
  const at::Tensor x = as_rows(x_TD);
  at::Tensor y_TD = at::empty(x_TD.sizes(), x_TD.options());
  const DropoutRows task{
      .dtype = x.scalar_type(),
      .x = x.const_data_ptr(),
      .y = y_TD.mutable_data_ptr(),
      .channels = x.size(1),
      .x_stride = x.stride(0),
      .key = static_cast<std::uint64_t>(key),
      .first_row = static_cast<std::uint64_t>(first_row),
      .threshold = static_cast<std::uint32_t>(std::ceil(p * 0x1.0p24)),
      .scale = 1.0 / (1.0 - p)};
  at::parallel_for(
      0, x.size(0), rows_per_block(x.size(1)), [&](std::int64_t begin, std::int64_t end) {
        HWY_DYNAMIC_DISPATCH(drop_rows)(task, begin, end);
      });
  return y_TD;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("dropout", dropout_cpu);
}

} // namespace baton::ops
#endif
