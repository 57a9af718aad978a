// SPDX-License-Identifier: Apache-2.0
// Rows of fp64, fp32 or bf16 numbers as Highway vectors of the type that sums them. Compiled once
// for every instruction set (the guard toggles).
#if defined(BATON_OPS_CPU_VECTOR_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BATON_OPS_CPU_VECTOR_ROWS_INL_H_
#undef BATON_OPS_CPU_VECTOR_ROWS_INL_H_
#else
#define BATON_OPS_CPU_VECTOR_ROWS_INL_H_
#endif

#include <hwy/highway.h>
// Highway's mathematics follow its main header.
#include <cstdint>
#include <type_traits>

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace baton::ops::rows {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// The type in which values of type T are computed and summed.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* HWY_RESTRICT from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const c10::BFloat16* HWY_RESTRICT from) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::uint32_t, D> d32;
  const auto halves = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, halves)));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> value, hn::TFromD<D>* HWY_RESTRICT to) {
  hn::StoreU(value, d, to);
}

/// The values of a bf16 number each, rounded to nearest, ties to even, in the upper halves of 32
/// bits; what is below is not cleared. Highway 1.0's own conversion cuts.
template <class D>
HWY_INLINE hn::VFromD<hn::Rebind<std::uint32_t, D>> round_to_bfloat16(D d, hn::Vec<D> value) {
  const hn::Rebind<std::uint32_t, D> d32;
  const auto bits = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFu)));
  // Rounding could carry a NaN's bits into infinity or zero.
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x00400000u));
  return hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(value)), quiet, rounded);
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> value, c10::BFloat16* HWY_RESTRICT to) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::int32_t, D> d32s;
  const auto high = hn::BitCast(d32s, hn::ShiftRight<16>(round_to_bfloat16(d, value)));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<std::uint16_t*>(to));
}

/// Calls `f(tag, i)` for every vector of a row of n values, then lane by lane for the rest.
template <class S, class F>
HWY_INLINE void for_vectors(std::int64_t n, const F& f) {
  const hn::ScalableTag<S> d;
  const hn::CappedTag<S, 1> lane;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + step <= n; i += step) {
    f(d, i);
  }
  for (; i < n; ++i) {
    f(lane, i);
  }
}

/// Sum over a row of the vectors `f(tag, i)`; four running sums hide the latency of additions.
template <class S, class F>
HWY_INLINE S sum_vectors(std::int64_t n, const F& f) {
  const hn::ScalableTag<S> d;
  const hn::CappedTag<S, 1> lane;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  auto sum2 = hn::Zero(d);
  auto sum3 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    sum0 = hn::Add(sum0, f(d, i));
    sum1 = hn::Add(sum1, f(d, i + step));
    sum2 = hn::Add(sum2, f(d, i + 2 * step));
    sum3 = hn::Add(sum3, f(d, i + 3 * step));
  }
  for (; i + step <= n; i += step) {
    sum0 = hn::Add(sum0, f(d, i));
  }
  const auto all = hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
  S total = hn::GetLane(hn::SumOfLanes(d, all));
  for (; i < n; ++i) {
    total += hn::GetLane(f(lane, i));
  }
  return total;
}

/// 1 / (1 + exp(-x)). The exponent is limited so that the exponential stays finite: beyond it
/// x * sigmoid(x) is below the smallest normal number times |x|.
template <class D>
HWY_INLINE hn::Vec<D> sigmoid(D d, hn::Vec<D> x) {
  using S = hn::TFromD<D>;
  const auto limit = hn::Set(d, std::is_same_v<S, double> ? S(700) : S(87));
  const auto one = hn::Set(d, S(1));
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), limit))));
}

template <class D>
HWY_INLINE hn::Vec<D> silu(D d, hn::Vec<D> x) {
  return hn::Mul(x, sigmoid(d, x));
}

/// Derivative of silu at x, given s = sigmoid(x): s * (1 + x * (1 - s)).
template <class D>
HWY_INLINE hn::Vec<D> silu_slope(D d, hn::Vec<D> x, hn::Vec<D> s) {
  const auto one = hn::Set(d, hn::TFromD<D>(1));
  return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
}

/// Calls `f` with a value of the C++ type that `dtype` names.
template <class F>
void with_type(c10::ScalarType dtype, const F& f) {
  switch (dtype) {
    case c10::ScalarType::Double:
      return f(double{});
    case c10::ScalarType::Float:
      return f(float{});
    case c10::ScalarType::BFloat16:
      return f(c10::BFloat16{});
    default:
      TORCH_INTERNAL_ASSERT(false, "no kernel for ", dtype);
  }
}

/// Calls `f` with values of the C++ types of rows and of a parameter of theirs, which has the rows'
/// dtype or is fp32 beside bf16.
template <class F>
void with_types(c10::ScalarType rows, c10::ScalarType parameter, const F& f) {
  with_type(rows, [&](auto type) {
    if constexpr (std::is_same_v<decltype(type), c10::BFloat16>) {
      if (parameter == c10::ScalarType::Float) {
        return f(type, float{});
      }
    }
    f(type, type);
  });
}

} // namespace HWY_NAMESPACE
} // namespace baton::ops::rows
HWY_AFTER_NAMESPACE();

#endif // BATON_OPS_CPU_VECTOR_ROWS_INL_H_
