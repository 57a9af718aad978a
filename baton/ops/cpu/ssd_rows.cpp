// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set by Highway; the best one is chosen when first used.
#include "baton/ops/cpu/ssd_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/ssd_rows.cpp"
// clang-format off
#include "baton/ops/cpu/highway_targets.h"
#include <hwy/foreach_target.h>  // must stand before the other headers of Highway
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace baton::ops::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Index = std::int64_t;

// Calls body(tag, i) for whole vectors, then for single elements.
template <class Real, class Body>
HWY_INLINE void for_vectors(Index n, const Body& body) {
  const hn::ScalableTag<Real> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    body(d, i);
  }
  const hn::CappedTag<Real, 1> one;
  for (; i < n; ++i) {
    body(one, i);
  }
}

template <class D, class Real>
HWY_INLINE hn::Vec<D> softplus(D d, hn::Vec<D> x, const Real threshold) {
  // max(x, 0) + log1p(exp(-|x|)) never overflows; above the threshold softplus is the identity.
  const auto zero = hn::Zero(d);
  const auto tail = hn::Log1p(d, hn::Exp(d, hn::Neg(hn::Abs(x))));
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, threshold)), x, hn::Add(hn::Max(x, zero), tail));
}

template <class Real>
void time_steps(const TimeStepRule& rule, Index n, const Real* raw, const Real* bias, Real* dt) {
  for_vectors<Real>(n, [&](auto d, Index i) HWY_ATTR {
    auto value = hn::LoadU(d, raw + i);
    if (bias != nullptr) {
      value = hn::Add(value, hn::LoadU(d, bias + i));
    }
    if (rule.softplus) {
      value = softplus(d, value, Real(20));
    }
    // Written so that a NaN stays one: comparisons with it are false.
    const auto low = hn::Set(d, static_cast<Real>(rule.low));
    const auto high = hn::Set(d, static_cast<Real>(rule.high));
    value = hn::IfThenElse(hn::Lt(value, low), low, value);
    hn::StoreU(hn::IfThenElse(hn::Gt(value, high), high, value), d, dt + i);
  });
}

template <class Real>
void time_step_gradients(
    const TimeStepRule& rule,
    Index n,
    const Real* raw,
    const Real* bias,
    Real* gradient) {
  for_vectors<Real>(n, [&](auto d, Index i) HWY_ATTR {
    const auto one = hn::Set(d, Real(1));
    auto value = hn::LoadU(d, raw + i);
    if (bias != nullptr) {
      value = hn::Add(value, hn::LoadU(d, bias + i));
    }
    auto slope = one;
    if (rule.softplus) {
      const auto decay = hn::Exp(d, hn::Neg(hn::Abs(value)));
      const auto large = hn::Div(one, hn::Add(one, decay));
      slope = hn::IfThenElse(hn::Lt(value, hn::Zero(d)), hn::Mul(decay, large), large);
      slope = hn::IfThenElse(hn::Gt(value, hn::Set(d, Real(20))), one, slope);
      value = softplus(d, value, Real(20));
    }
    const auto clamped = hn::Or(
        hn::Lt(value, hn::Set(d, static_cast<Real>(rule.low))),
        hn::Gt(value, hn::Set(d, static_cast<Real>(rule.high))));
    const auto result = hn::Mul(slope, hn::LoadU(d, gradient + i));
    hn::StoreU(hn::IfThenZeroElse(clamped, result), d, gradient + i);
  });
}

template <class Real>
void decay_from_start(Index n, RunningSums<Real> sums, Real* out) {
  for_vectors<Real>(n, [&](auto d, Index i) HWY_ATTR {
    hn::StoreU(
        hn::Exp(d, hn::Add(hn::LoadU(d, sums.high + i), hn::LoadU(d, sums.low + i))), d, out + i);
  });
}

// (high_a - high_b) + (low_a - low_b)
template <class D, class Real>
HWY_INLINE hn::Vec<D> sum_difference(D d, Real high, Real low, RunningSums<Real> sums, Index j) {
  return hn::Add(
      hn::Sub(hn::Set(d, high), hn::LoadU(d, sums.high + j)),
      hn::Sub(hn::Set(d, low), hn::LoadU(d, sums.low + j)));
}

template <class Real>
void decay_to_end(Index n, RunningSums<Real> sums, Real* out) {
  for_vectors<Real>(n, [&](auto d, Index i) HWY_ATTR {
    hn::StoreU(
        hn::Exp(d, sum_difference(d, sums.high[n - 1], sums.low[n - 1], sums, i)), d, out + i);
  });
}

template <class Real>
void multiply(Index n, const Real* a, const Real* b, Real* out) {
  for_vectors<Real>(n, [&](auto d, Index i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
  });
}

template <class Real>
void scale(Index rows, Index columns, const Real* weights, ConstTile<Real> in, Tile<Real> out) {
  for (Index r = 0; r < rows; ++r) {
    const Real* from = in.data + r * in.stride;
    Real* to = out.data + r * out.stride;
    for_vectors<Real>(columns, [&](auto d, Index i) HWY_ATTR {
      hn::StoreU(hn::Mul(hn::Set(d, weights[r]), hn::LoadU(d, from + i)), d, to + i);
    });
  }
}

// exp(s_t - s_j) for the lanes j .. of row t, zero above the diagonal. The mask comes before the
// exponential, so that nothing overflows there.
template <class D, class Mask, class Real>
HWY_INLINE hn::Vec<D> masked_decay(D d, Mask mask, Index t, Index j, RunningSums<Real> sums) {
  const auto difference = sum_difference(d, sums.high[t], sums.low[t], sums, j);
  return hn::IfThenElseZero(mask, hn::Exp(d, hn::IfThenElseZero(mask, difference)));
}

template <class Real>
void decayed_scores(
    Index rows,
    ConstTile<Real> scores,
    RunningSums<Real> sums,
    const Real* dt,
    Tile<Real> weights) {
  const hn::ScalableTag<Real> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index t = 0; t < rows; ++t) {
    Real* out = weights.data + t * weights.stride;
    Index j = 0;
    for (; j <= t; j += lanes) {
      const auto mask = hn::FirstN(d, static_cast<std::size_t>(t + 1 - j));
      const auto decay = masked_decay(d, mask, t, j, sums);
      const auto score =
          hn::Mul(hn::LoadU(d, scores.data + t * scores.stride + j), hn::LoadU(d, dt + j));
      hn::StoreU(hn::IfThenElseZero(mask, hn::Mul(score, decay)), d, out + j);
    }
    for (; j < rows; j += lanes) {
      hn::StoreU(hn::Zero(d), d, out + j);
    }
  }
}

template <class Real>
void score_gradients(Index rows, const ScoreGradients<Real>& job) {
  const hn::ScalableTag<Real> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index j = 0; j < rows; j += lanes) {
    hn::StoreU(hn::Zero(d), d, job.column_sums + j);
  }
  for (Index t = rows - 1; t >= 0; --t) {
    const Real* scores = job.scores.data + t * job.scores.stride;
    const Real* products = job.products.data + t * job.products.stride;
    Real* weights = job.weights.data + t * job.weights.stride;
    Real* gradients = job.gradients.data + t * job.gradients.stride;
    auto crossing = hn::Zero(d);
    Index j = 0;
    for (; j <= t; j += lanes) {
      const auto mask = hn::FirstN(d, static_cast<std::size_t>(t + 1 - j));
      const auto below = hn::FirstN(d, static_cast<std::size_t>(t - j));
      const auto decay = masked_decay(d, mask, t, j, job.sums);
      const auto score = hn::LoadU(d, scores + j);
      const auto product = hn::Mul(hn::LoadU(d, products + j), hn::LoadU(d, job.dt + j));
      const auto gradient = hn::IfThenElseZero(mask, hn::Mul(decay, product));
      hn::StoreU(hn::IfThenElseZero(mask, hn::Mul(score, decay)), d, weights + j);
      hn::StoreU(hn::Add(hn::LoadU(d, gradients + j), gradient), d, gradients + j);
      // Rows from t on have been added to the sums of all columns before t.
      const auto sum = hn::Add(
          hn::LoadU(d, job.column_sums + j), hn::IfThenElseZero(below, hn::Mul(score, gradient)));
      hn::StoreU(sum, d, job.column_sums + j);
      crossing = hn::Add(crossing, hn::IfThenElseZero(below, sum));
    }
    job.crossing[t] = hn::GetLane(hn::SumOfLanes(d, crossing));
    for (; j < rows; j += lanes) {
      hn::StoreU(hn::Zero(d), d, weights + j);
    }
  }
}

template <class Real>
void start_output(
    Index rows,
    Index columns,
    const Real* weights,
    const Real* skip,
    ConstTile<Real> x,
    Tile<Real> y) {
  for (Index r = 0; r < rows; ++r) {
    const Real* from = x.data + r * x.stride;
    Real* to = y.data + r * y.stride;
    for_vectors<Real>(columns, [&](auto d, Index i) HWY_ATTR {
      auto value = hn::Zero(d);
      if (skip != nullptr) {
        value = hn::Mul(hn::LoadU(d, skip + i), hn::LoadU(d, from + i));
      }
      if (weights != nullptr) {
        value = hn::MulAdd(hn::Set(d, weights[r]), hn::LoadU(d, to + i), value);
      }
      hn::StoreU(value, d, to + i);
    });
  }
}

template <class Real>
void exchange_state(Index n, Real decay, Real* carry, Real* chunk) {
  for_vectors<Real>(n, [&](auto d, Index i) HWY_ATTR {
    const auto before = hn::LoadU(d, carry + i);
    hn::StoreU(hn::MulAdd(hn::Set(d, decay), before, hn::LoadU(d, chunk + i)), d, carry + i);
    hn::StoreU(before, d, chunk + i);
  });
}

template <class Real>
HWY_INLINE Real inner_product(Index n, const Real* a, const Real* b) {
  const hn::ScalableTag<Real> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  auto first = hn::Zero(d);
  auto second = hn::Zero(d);
  Index i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    first = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), first);
    second = hn::MulAdd(hn::LoadU(d, a + i + lanes), hn::LoadU(d, b + i + lanes), second);
  }
  Real sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(first, second)));
  for (; i < n; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

template <class Real>
Real dot(Index n, const Real* a, const Real* b) {
  return inner_product(n, a, b);
}

template <class Real>
void dot_rows(Index rows, Index columns, ConstTile<Real> a, ConstTile<Real> b, Real* dots) {
  for (Index r = 0; r < rows; ++r) {
    dots[r] = inner_product(columns, a.data + r * a.stride, b.data + r * b.stride);
  }
}

template <class Real>
void accumulate_and_dot(
    Index rows,
    Index columns,
    const Real* weights,
    ConstTile<Real> a,
    ConstTile<Real> b,
    Tile<Real> sum,
    Real* dots) {
  for (Index r = 0; r < rows; ++r) {
    const Real* from = a.data + r * a.stride;
    Real* to = sum.data + r * sum.stride;
    dots[r] = weights[r] * inner_product(columns, from, b.data + r * b.stride);
    for_vectors<Real>(columns, [&](auto d, Index i) HWY_ATTR {
      hn::StoreU(
          hn::MulAdd(hn::Set(d, weights[r]), hn::LoadU(d, from + i), hn::LoadU(d, to + i)),
          d,
          to + i);
    });
  }
}

template <class Real>
void input_gradients(
    Index rows,
    Index columns,
    const Real* dt,
    const Real* skip,
    ConstTile<Real> u,
    ConstTile<Real> dy,
    ConstTile<Real> x,
    Tile<Real> dx,
    Real* dots) {
  for (Index r = 0; r < rows; ++r) {
    const Real* from = u.data + r * u.stride;
    const Real* dy_row = dy.data + r * dy.stride;
    Real* to = dx.data + r * dx.stride;
    dots[r] = inner_product(columns, x.data + r * x.stride, from);
    for_vectors<Real>(columns, [&](auto d, Index i) HWY_ATTR {
      auto value = hn::Mul(hn::Set(d, dt[r]), hn::LoadU(d, from + i));
      if (skip != nullptr) {
        value = hn::MulAdd(hn::LoadU(d, skip + i), hn::LoadU(d, dy_row + i), value);
      }
      hn::StoreU(value, d, to + i);
    });
  }
}

template <class Real>
void accumulate_products(
    Index rows,
    Index columns,
    ConstTile<Real> a,
    ConstTile<Real> b,
    Real* sum) {
  for_vectors<Real>(columns, [&](auto d, Index i) HWY_ATTR {
    auto total = hn::LoadU(d, sum + i);
    for (Index r = 0; r < rows; ++r) {
      total = hn::MulAdd(
          hn::LoadU(d, a.data + r * a.stride + i), hn::LoadU(d, b.data + r * b.stride + i), total);
    }
    hn::StoreU(total, d, sum + i);
  });
}

template <class Real>
void step(
    Index head_dim,
    Index state_dim,
    Real decay,
    Real dt,
    const Real* x,
    const Real* b,
    const Real* c,
    Real* state,
    Real* y) {
  const hn::ScalableTag<Real> d;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  for (Index p = 0; p < head_dim; ++p) {
    Real* row = state + p * state_dim;
    const Real input = dt * x[p];
    auto sum = hn::Zero(d);
    Index n = 0;
    for (; n + lanes <= state_dim; n += lanes) {
      const auto fresh = hn::MulAdd(
          hn::Set(d, decay),
          hn::LoadU(d, row + n),
          hn::Mul(hn::Set(d, input), hn::LoadU(d, b + n)));
      hn::StoreU(fresh, d, row + n);
      sum = hn::MulAdd(fresh, hn::LoadU(d, c + n), sum);
    }
    Real total = hn::GetLane(hn::SumOfLanes(d, sum));
    for (; n < state_dim; ++n) {
      row[n] = decay * row[n] + input * b[n];
      total += row[n] * c[n];
    }
    y[p] = total;
  }
}

template <class Real>
const SsdRows<Real>& table() {
  static constexpr SsdRows<Real> kTable = {
      &time_steps<Real>,
      &time_step_gradients<Real>,
      &decay_from_start<Real>,
      &decay_to_end<Real>,
      &multiply<Real>,
      &scale<Real>,
      &decayed_scores<Real>,
      &score_gradients<Real>,
      &start_output<Real>,
      &exchange_state<Real>,
      &dot<Real>,
      &dot_rows<Real>,
      &accumulate_and_dot<Real>,
      &input_gradients<Real>,
      &accumulate_products<Real>,
      &step<Real>};
  return kTable;
}

const SsdRows<float>* float_table() {
  return &table<float>();
}
const SsdRows<double>* double_table() {
  return &table<double>();
}

void widen(Index n, const c10::BFloat16* in, float* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> bits;
  const hn::Rebind<std::uint16_t, decltype(d)> half;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const auto* from = reinterpret_cast<const std::uint16_t*>(in);
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto wide = hn::PromoteTo(bits, hn::LoadU(half, from + i));
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(wide)), d, out + i);
  }
  for (; i < n; ++i) {
    out[i] = static_cast<float>(in[i]);
  }
}

// Round to nearest even; a NaN keeps its sign and becomes quiet.
void narrow(Index n, const float* in, c10::BFloat16* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> bits;
  const hn::Rebind<std::uint16_t, decltype(d)> half;
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  auto* to = reinterpret_cast<std::uint16_t*>(out);
  Index i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto value = hn::LoadU(d, in + i);
    const auto raw = hn::BitCast(bits, value);
    const auto odd = hn::And(hn::ShiftRight<16>(raw), hn::Set(bits, 1u));
    const auto rounded = hn::Add(raw, hn::Add(odd, hn::Set(bits, 0x7FFFu)));
    const auto quiet = hn::Or(raw, hn::Set(bits, 0x00400000u));
    const auto is_nan = hn::RebindMask(bits, hn::IsNaN(value));
    const auto chosen = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
    hn::StoreU(hn::TruncateTo(half, chosen), half, to + i);
  }
  for (; i < n; ++i) {
    out[i] = c10::BFloat16(in[i]);
  }
}

} // namespace HWY_NAMESPACE
} // namespace baton::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops::cpu {

HWY_EXPORT(float_table);
HWY_EXPORT(double_table);
HWY_EXPORT(widen);
HWY_EXPORT(narrow);

template <>
const SsdRows<float>& ssd_rows<float>() {
  return *HWY_DYNAMIC_DISPATCH(float_table)();
}

template <>
const SsdRows<double>& ssd_rows<double>() {
  return *HWY_DYNAMIC_DISPATCH(double_table)();
}

void widen_row(std::int64_t n, const c10::BFloat16* in, float* out) {
  HWY_DYNAMIC_DISPATCH(widen)(n, in, out);
}

void narrow_row(std::int64_t n, const float* in, c10::BFloat16* out) {
  HWY_DYNAMIC_DISPATCH(narrow)(n, in, out);
}

} // namespace baton::ops::cpu
#endif // HWY_ONCE
