// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/paged_attend.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "baton/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/paged_attend.cpp"
#include <hwy/foreach_target.h>

// foreach_target.h comes first.
#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace baton::ops::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Keys that are scored before their values are added.
constexpr std::int64_t kTileKeys = 32;

template <class D, class T>
hn::Vec<D> load_wide(D d, const T* from) {
  if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), from));
  } else {
    return hn::LoadU(d, from);
  }
}

inline float wide(hwy::bfloat16_t value) {
  return hwy::F32FromBF16(value);
}
inline float wide(float value) {
  return value;
}
inline double wide(double value) {
  return value;
}

/// Where the keys and values of one tile lie.
template <class T>
struct TileRows {
  std::int64_t count = 0;
  const T* keys[kTileKeys] = {};
  const T* values[kTileKeys] = {};
};

template <class T>
void find_rows(const PagedRows& rows, std::int64_t first, std::int64_t count, const T** found) {
  const std::int32_t* page = rows.pages + first / rows.page_size;
  std::int64_t token = first % rows.page_size;
  for (std::int64_t i = 0; i < count; ++i) {
    found[i] =
        static_cast<const T*>(rows.data) + *page * rows.page_stride + token * rows.token_stride;
    if (++token == rows.page_size) {
      token = 0;
      ++page;
    }
  }
}

/// Finds a tile and asks memory for it. Rows of one head lie apart, which no processor foresees.
template <class Sum, class T>
TileRows<T> fetch_tile(const PagedTask<Sum>& task, std::int64_t first) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  TileRows<T> tile;
  tile.count = std::min(kTileKeys, task.last_key - first);
  if (tile.count <= 0) {
    return tile; // behind the last one
  }
  find_rows(task.keys, first, tile.count, tile.keys);
  find_rows(task.values, first, tile.count, tile.values);
  for (const T* const* rows : {tile.keys, tile.values}) {
    for (std::int64_t key = 0; key < tile.count; ++key) {
      for (std::int64_t i = 0; i < task.channels; i += kLine) {
        hwy::Prefetch(rows[key] + i);
      }
    }
  }
  return tile;
}

/// Scores of kRows rows with kKeys keys. The order of additions of a score does not depend on
/// either.
template <int kRows, int kKeys, class Sum, class T>
void score_block(
    const Sum* q_RP,
    std::int64_t channels,
    const T* const* keys,
    Sum* scores,
    std::int64_t stride) {
  const hn::ScalableTag<Sum> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sums[kKeys][kRows];
  HWY_UNROLL(8)
  for (int k = 0; k < kKeys; ++k) {
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      sums[k][r] = hn::Zero(d);
    }
  }
  std::int64_t i = 0;
  for (; i + lanes <= channels; i += lanes) {
    hn::Vec<decltype(d)> q[kRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      q[r] = hn::LoadU(d, q_RP + r * channels + i);
    }
    HWY_UNROLL(8)
    for (int k = 0; k < kKeys; ++k) {
      const auto key = load_wide(d, keys[k] + i);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) {
        sums[k][r] = hn::MulAdd(key, q[r], sums[k][r]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int k = 0; k < kKeys; ++k) {
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      Sum sum = hn::GetLane(hn::SumOfLanes(d, sums[k][r]));
      for (std::int64_t j = i; j < channels; ++j) {
        sum += wide(keys[k][j]) * q_RP[r * channels + j];
      }
      scores[r * stride + k] = sum;
    }
  }
}

template <int kRows, class Sum, class T>
void score_rows(
    const Sum* q_RP,
    std::int64_t channels,
    const T* const* keys,
    std::int64_t num_keys,
    Sum* scores) {
  constexpr int kKeys = kRows == 1 ? 4 : 2;
  std::int64_t key = 0;
  for (; key + kKeys <= num_keys; key += kKeys) {
    score_block<kRows, kKeys>(q_RP, channels, keys + key, scores + key, kTileKeys);
  }
  for (; key < num_keys; ++key) {
    score_block<kRows, 1>(q_RP, channels, keys + key, scores + key, kTileKeys);
  }
}

/// Scores become exp(score - maximum); returns the factor that brings older sums to the new
/// maximum.
template <class Sum>
Sum soften(Sum* scores, Sum& maximum, Sum& sum) {
  const hn::CappedTag<Sum, kTileKeys> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto maxima = hn::Set(d, maximum);
  for (std::int64_t i = 0; i < kTileKeys; i += lanes) {
    maxima = hn::Max(maxima, hn::LoadU(d, scores + i));
  }
  const Sum raised = hn::GetLane(hn::MaxOfLanes(d, maxima));
  const Sum factor = raised == maximum ? Sum(1) : std::exp(maximum - raised);
  const auto shift = hn::Set(d, raised);
  auto sums = hn::Zero(d);
  for (std::int64_t i = 0; i < kTileKeys; i += lanes) {
    const auto power = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + i), shift));
    sums = hn::Add(sums, power);
    hn::StoreU(power, d, scores + i);
  }
  maximum = raised;
  sum = sum * factor + hn::GetLane(hn::SumOfLanes(d, sums));
  return factor;
}

/// out = factor * out + sum over keys of weight * value, kVectors vectors of channels at a time.
template <int kVectors, class Sum, class T>
void add_values(
    const Sum* weights,
    const T* const* values,
    std::int64_t num_keys,
    Sum factor,
    std::int64_t first,
    Sum* out) {
  const hn::ScalableTag<Sum> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sums[kVectors];
  HWY_UNROLL(8)
  for (int i = 0; i < kVectors; ++i) {
    sums[i] = hn::Mul(hn::Set(d, factor), hn::LoadU(d, out + first + i * lanes));
  }
  for (std::int64_t key = 0; key < num_keys; ++key) {
    const auto weight = hn::Set(d, weights[key]);
    HWY_UNROLL(8)
    for (int i = 0; i < kVectors; ++i) {
      sums[i] = hn::MulAdd(weight, load_wide(d, values[key] + first + i * lanes), sums[i]);
    }
  }
  HWY_UNROLL(8)
  for (int i = 0; i < kVectors; ++i) {
    hn::StoreU(sums[i], d, out + first + i * lanes);
  }
}

template <class Sum, class T>
void add_all_values(
    const Sum* weights,
    const T* const* values,
    std::int64_t num_keys,
    Sum factor,
    std::int64_t channels,
    Sum* out) {
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<Sum>()));
  std::int64_t i = 0;
  for (; i + 8 * lanes <= channels; i += 8 * lanes) {
    add_values<8>(weights, values, num_keys, factor, i, out);
  }
  for (; i + 4 * lanes <= channels; i += 4 * lanes) {
    add_values<4>(weights, values, num_keys, factor, i, out);
  }
  for (; i + lanes <= channels; i += lanes) {
    add_values<1>(weights, values, num_keys, factor, i, out);
  }
  for (; i < channels; ++i) {
    Sum sum = factor * out[i];
    for (std::int64_t key = 0; key < num_keys; ++key) {
      sum += weights[key] * wide(values[key][i]);
    }
    out[i] = sum;
  }
}

template <class Sum, class T>
void attend(const PagedTask<Sum>& task) {
  const std::int64_t num_rows = task.num_rows;
  const std::int64_t channels = task.channels;
  std::fill_n(task.out_RP, num_rows * channels, Sum(0));
  std::fill_n(task.sum_R, num_rows, Sum(0));
  std::fill_n(task.maximum_R, num_rows, -std::numeric_limits<Sum>::infinity());
  std::vector<Sum> scores(num_rows * kTileKeys);
  TileRows<T> next = fetch_tile<Sum, T>(task, task.first_key);
  for (std::int64_t first = task.first_key; first < task.last_key; first += kTileKeys) {
    const TileRows<T> tile = next;
    next = fetch_tile<Sum, T>(task, first + kTileKeys);
    std::int64_t row = 0;
    for (; row + 4 <= num_rows; row += 4) {
      score_rows<4>(
          task.q_RP + row * channels,
          channels,
          tile.keys,
          tile.count,
          scores.data() + row * kTileKeys);
    }
    for (; row < num_rows; ++row) {
      score_rows<1>(
          task.q_RP + row * channels,
          channels,
          tile.keys,
          tile.count,
          scores.data() + row * kTileKeys);
    }
    for (row = 0; row < num_rows; ++row) {
      const std::int64_t seen = std::min(tile.count, task.visible_R[row] - first);
      if (seen > 0) {
        Sum* row_scores = scores.data() + row * kTileKeys;
        std::fill(row_scores + seen, row_scores + kTileKeys, -std::numeric_limits<Sum>::infinity());
        const Sum factor = soften(row_scores, task.maximum_R[row], task.sum_R[row]);
        add_all_values(
            row_scores, tile.values, seen, factor, channels, task.out_RP + row * channels);
      }
    }
  }
}

void attend_float(const PagedTask<float>& task) {
  attend<float, float>(task);
}
void attend_bfloat16(const PagedTask<float>& task) {
  attend<float, hwy::bfloat16_t>(task);
}
void attend_double(const PagedTask<double>& task) {
  attend<double, double>(task);
}

} // namespace baton::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops::cpu {

HWY_EXPORT(attend_float);
HWY_EXPORT(attend_bfloat16);
HWY_EXPORT(attend_double);

void paged_attend(const PagedTask<float>& task, at::ScalarType pages) {
  if (pages == at::kBFloat16) {
    HWY_DYNAMIC_DISPATCH(attend_bfloat16)(task);
  } else {
    HWY_DYNAMIC_DISPATCH(attend_float)(task);
  }
}
void paged_attend(const PagedTask<double>& task, at::ScalarType /*pages*/) {
  HWY_DYNAMIC_DISPATCH(attend_double)(task);
}

} // namespace baton::ops::cpu
#endif
