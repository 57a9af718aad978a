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

template <class Sum, class T>
TileRows<T> find_tile(const PagedTask<Sum>& task, std::int64_t first) {
  TileRows<T> tile;
  tile.count = std::min(kTileKeys, task.last_key - first);
  if (tile.count > 0) { // not behind the last one
    find_rows(task.keys, first, tile.count, tile.keys);
    find_rows(task.values, first, tile.count, tile.values);
  }
  return tile;
}

/// Asks memory for the rows of one head, which lie apart, so that no processor foresees them.
template <class T>
void fetch(const TileRows<T>& tile, std::int64_t channels) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  for (const T* const* rows : {tile.keys, tile.values}) {
    for (std::int64_t key = 0; key < tile.count; ++key) {
      for (std::int64_t i = 0; i < channels; i += kLine) {
        hwy::Prefetch(rows[key] + i);
      }
    }
  }
}

/// Rows of another key head.
template <class T>
void move_rows(const T* const* rows, std::int64_t count, std::int64_t shift, const T** moved) {
  for (std::int64_t i = 0; i < count; ++i) {
    moved[i] = rows[i] + shift;
  }
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

/// Scores of one head's rows with some keys of a tile.
template <class Sum, class T>
void score_head(
    const PagedTask<Sum>& task,
    std::int64_t head,
    const T* const* first_head_keys,
    std::int64_t num_keys,
    Sum* scores_HRT) {
  const T* keys[kTileKeys];
  move_rows(first_head_keys, num_keys, head * task.keys.head_stride, keys);
  const std::int64_t channels = task.channels;
  const Sum* q_RP = task.q_HRP + head * task.q_head_stride;
  Sum* scores_RT = scores_HRT + head * task.num_rows * kTileKeys;
  std::int64_t row = 0;
  for (; row + 4 <= task.num_rows; row += 4) {
    score_rows<4>(q_RP + row * channels, channels, keys, num_keys, scores_RT + row * kTileKeys);
  }
  for (; row < task.num_rows; ++row) {
    score_rows<1>(q_RP + row * channels, channels, keys, num_keys, scores_RT + row * kTileKeys);
  }
}

/// Keys of a tile that a row sees.
template <class Sum>
std::int64_t
seen_keys(const PagedTask<Sum>& task, std::int64_t row, std::int64_t first, std::int64_t count) {
  return std::min(count, task.visible_R[row] - first);
}

/// Scores of a tile become weights, and older sums move to the new maximum.
template <class Sum>
void soften_rows(
    const PagedTask<Sum>& task,
    std::int64_t first,
    std::int64_t count,
    Sum* scores_HRT,
    Sum* factors_HR) {
  for (std::int64_t at = 0; at < task.num_heads * task.num_rows; ++at) {
    const std::int64_t seen = seen_keys(task, at % task.num_rows, first, count);
    if (seen > 0) {
      Sum* scores = scores_HRT + at * kTileKeys;
      std::fill(scores + seen, scores + kTileKeys, -std::numeric_limits<Sum>::infinity());
      factors_HR[at] = soften(scores, task.maximum_HR[at], task.sum_HR[at]);
    }
  }
}

/// Adds values [begin, end) of a tile to the sums of one head's rows, by their weights.
template <class Sum, class T>
void add_head(
    const PagedTask<Sum>& task,
    std::int64_t head,
    const TileRows<T>& tile,
    std::int64_t first,
    std::int64_t begin,
    std::int64_t end,
    const Sum* weights_HRT,
    const Sum* factors_HR) {
  const T* values[kTileKeys];
  move_rows(tile.values + begin, end - begin, head * task.values.head_stride, values);
  for (std::int64_t row = 0; row < task.num_rows; ++row) {
    const std::int64_t seen = seen_keys(task, row, first, end);
    const std::int64_t at = head * task.num_rows + row;
    if (seen > begin) {
      add_all_values(
          weights_HRT + at * kTileKeys + begin,
          values,
          seen - begin,
          begin == 0 ? factors_HR[at] : Sum(1),
          task.channels,
          task.out_HRP + at * task.channels);
    }
  }
}

/// Several heads take turns key by key, so that memory is read from end to end, which a processor
/// foresees.
template <class Sum, class T>
void attend(const PagedTask<Sum>& task) {
  const std::int64_t all_rows = task.num_heads * task.num_rows;
  std::fill_n(task.out_HRP, all_rows * task.channels, Sum(0));
  std::fill_n(task.sum_HR, all_rows, Sum(0));
  std::fill_n(task.maximum_HR, all_rows, -std::numeric_limits<Sum>::infinity());
  const bool one_head = task.num_heads == 1;
  const std::int64_t turn = one_head ? kTileKeys : 1;
  std::vector<Sum> scores_HRT(all_rows * kTileKeys);
  std::vector<Sum> factors_HR(all_rows);
  TileRows<T> next = find_tile<Sum, T>(task, task.first_key);
  for (std::int64_t first = task.first_key; first < task.last_key; first += kTileKeys) {
    const TileRows<T> tile = next;
    next = find_tile<Sum, T>(task, first + kTileKeys);
    if (one_head) {
      fetch(next, task.channels);
    }
    for (std::int64_t key = 0; key < tile.count; key += turn) {
      const std::int64_t count = std::min(turn, tile.count - key);
      for (std::int64_t head = 0; head < task.num_heads; ++head) {
        score_head(task, head, tile.keys + key, count, scores_HRT.data() + key);
      }
    }
    soften_rows(task, first, tile.count, scores_HRT.data(), factors_HR.data());
    for (std::int64_t key = 0; key < tile.count; key += turn) {
      const std::int64_t end = std::min(key + turn, tile.count);
      for (std::int64_t head = 0; head < task.num_heads; ++head) {
        add_head(task, head, tile, first, key, end, scores_HRT.data(), factors_HR.data());
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
