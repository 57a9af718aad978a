// SPDX-License-Identifier: Apache-2.0
// AdamW on the CPU: blocks of a fixed size over threads, each vectorised for the machine it runs
// on.
#include "baton/ops/adamw_update.h"
#include "baton/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/adamw.cpp" // NOLINT
#include <cstdint>

#include <hwy/foreach_target.h> // IWYU pragma: keep
#include <hwy/highway.h>

#ifndef BATON_OPS_CPU_ADAMW_SPAN
#define BATON_OPS_CPU_ADAMW_SPAN
namespace baton::ops {

/// Values [0, count) of one parameter. T is the working type, P and G hold the parameter and the
/// gradient: T itself, or uint16_t for the bits of bf16.
template <class T, class P, class G>
struct AdamwSpan {
  P* parameter;
  const G* grad;
  T* exp_avg;
  T* exp_avg_sq;
  T* master; // null without a master
  std::size_t count;
};

} // namespace baton::ops
#endif // BATON_OPS_CPU_ADAMW_SPAN

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load_as(D d, const hn::TFromD<D>* from) {
  return hn::LoadU(d, from);
}

HWY_INLINE hn::Vec<hn::ScalableTag<float>> load_as(
    hn::ScalableTag<float> d,
    const std::uint16_t* from) {
  const hn::RebindToUnsigned<decltype(d)> bits;
  const hn::Rebind<std::uint16_t, decltype(d)> halves;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(halves, from))));
}

template <class D>
HWY_INLINE void store_as(D d, hn::Vec<D> values, hn::TFromD<D>* to) {
  hn::StoreU(values, d, to);
}

// Rounds to nearest even. Highway's own conversion cuts the low bits off.
void store_as(hn::ScalableTag<float> d, hn::Vec<hn::ScalableTag<float>> values, std::uint16_t* to) {
  const hn::RebindToUnsigned<decltype(d)> unsigned_bits;
  const hn::RebindToSigned<decltype(d)> signed_bits;
  const hn::Rebind<std::uint16_t, decltype(d)> halves;
  const auto bits = hn::BitCast(unsigned_bits, values);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(unsigned_bits, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(unsigned_bits, 0x7FFFU)));
  const auto not_a_number = hn::RebindMask(unsigned_bits, hn::IsNaN(values));
  const auto kept = hn::IfThenElse(not_a_number, hn::Set(unsigned_bits, 0x7FC00000U), rounded);
  const auto upper = hn::BitCast(signed_bits, hn::ShiftRight<16>(kept));
  hn::StoreU(hn::DemoteTo(halves, upper), halves, to);
}

template <class T, class P, class G>
HWY_INLINE void
update_vector(const AdamwSpan<T, P, G>& span, std::size_t at, const AdamwFactors<T>& factors) {
  const hn::ScalableTag<T> d;
  const auto grad = hn::Mul(load_as(d, span.grad + at), hn::Set(d, factors.grad_scale));
  const auto exp_avg = hn::MulAdd(
      hn::Set(d, factors.rest1),
      grad,
      hn::Mul(hn::Set(d, factors.beta1), hn::LoadU(d, span.exp_avg + at)));
  const auto exp_avg_sq = hn::MulAdd(
      hn::Mul(hn::Set(d, factors.rest2), grad),
      grad,
      hn::Mul(hn::Set(d, factors.beta2), hn::LoadU(d, span.exp_avg_sq + at)));
  const auto denominator = hn::MulAdd(
      hn::Sqrt(exp_avg_sq), hn::Set(d, factors.root_correction), hn::Set(d, factors.eps));
  const auto before =
      span.master == nullptr ? load_as(d, span.parameter + at) : hn::LoadU(d, span.master + at);
  const auto change = hn::Div(hn::Mul(hn::Set(d, factors.step_size), exp_avg), denominator);
  const auto after = hn::MulSub(hn::Set(d, factors.keep), before, change);
  hn::StoreU(exp_avg, d, span.exp_avg + at);
  hn::StoreU(exp_avg_sq, d, span.exp_avg_sq + at);
  if (span.master != nullptr) {
    hn::StoreU(after, d, span.master + at);
  }
  store_as(d, after, span.parameter + at);
}

// The last, partial vector goes through buffers, so that each value is computed by the same
// instructions wherever it stands.
template <class T, class P, class G>
void update_tail(
    const AdamwSpan<T, P, G>& span,
    std::size_t begin,
    const AdamwFactors<T>& factors) {
  constexpr std::size_t kMost = HWY_MAX_BYTES / sizeof(T);
  P parameter[kMost] = {};
  G grad[kMost] = {};
  T exp_avg[kMost] = {};
  T exp_avg_sq[kMost] = {};
  T master[kMost] = {};
  const std::size_t count = span.count - begin;
  const auto copy = [count](const auto* from, auto* to) {
    for (std::size_t i = 0; i < count; ++i) {
      to[i] = from[i];
    }
  };
  copy(span.parameter + begin, parameter);
  copy(span.grad + begin, grad);
  copy(span.exp_avg + begin, exp_avg);
  copy(span.exp_avg_sq + begin, exp_avg_sq);
  const bool has_master = span.master != nullptr;
  if (has_master) {
    copy(span.master + begin, master);
  }
  update_vector(
      AdamwSpan<T, P, G>{
          parameter, grad, exp_avg, exp_avg_sq, has_master ? master : nullptr, count},
      0,
      factors);
  copy(parameter, span.parameter + begin);
  copy(exp_avg, span.exp_avg + begin);
  copy(exp_avg_sq, span.exp_avg_sq + begin);
  if (has_master) {
    copy(master, span.master + begin);
  }
}

template <class T, class P, class G>
void update_span(const AdamwSpan<T, P, G>& span, const AdamwFactors<T>& factors) {
  const std::size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  std::size_t at = 0;
  for (; at + lanes <= span.count; at += lanes) {
    update_vector(span, at, factors);
  }
  if (at < span.count) {
    update_tail(span, at, factors);
  }
}

void adamw_double(
    const AdamwSpan<double, double, double>& span,
    const AdamwFactors<double>& factors) {
  update_span(span, factors);
}

void adamw_float(const AdamwSpan<float, float, float>& span, const AdamwFactors<float>& factors) {
  update_span(span, factors);
}

void adamw_bf16(
    const AdamwSpan<float, std::uint16_t, std::uint16_t>& span,
    const AdamwFactors<float>& factors) {
  update_span(span, factors);
}

void adamw_bf16_float_grad(
    const AdamwSpan<float, std::uint16_t, float>& span,
    const AdamwFactors<float>& factors) {
  update_span(span, factors);
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

namespace baton::ops {
namespace {

HWY_EXPORT(adamw_double);
HWY_EXPORT(adamw_float);
HWY_EXPORT(adamw_bf16);
HWY_EXPORT(adamw_bf16_float_grad);

constexpr std::int64_t kBlock = 16384;

// Overloads choose the vector kernel by the types of the span.
void run_span(const AdamwSpan<double, double, double>& span, const AdamwFactors<double>& factors) {
  HWY_DYNAMIC_DISPATCH(adamw_double)(span, factors);
}
void run_span(const AdamwSpan<float, float, float>& span, const AdamwFactors<float>& factors) {
  HWY_DYNAMIC_DISPATCH(adamw_float)(span, factors);
}
void run_span(
    const AdamwSpan<float, std::uint16_t, std::uint16_t>& span,
    const AdamwFactors<float>& factors) {
  HWY_DYNAMIC_DISPATCH(adamw_bf16)(span, factors);
}
void run_span(
    const AdamwSpan<float, std::uint16_t, float>& span,
    const AdamwFactors<float>& factors) {
  HWY_DYNAMIC_DISPATCH(adamw_bf16_float_grad)(span, factors);
}

struct AdamwTensors {
  at::Tensor parameter;
  at::Tensor grad;
  at::Tensor exp_avg;
  at::Tensor exp_avg_sq;
  at::Tensor master;
};

template <class T, class P, class G>
void update(const AdamwTensors& tensors, const AdamwFactors<T>& factors) {
  auto* parameter = static_cast<P*>(tensors.parameter.mutable_data_ptr());
  const auto* grad = static_cast<const G*>(tensors.grad.const_data_ptr());
  auto* exp_avg = static_cast<T*>(tensors.exp_avg.mutable_data_ptr());
  auto* exp_avg_sq = static_cast<T*>(tensors.exp_avg_sq.mutable_data_ptr());
  T* master =
      tensors.master.defined() ? static_cast<T*>(tensors.master.mutable_data_ptr()) : nullptr;
  const std::int64_t count = tensors.parameter.numel();
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t begin = block * kBlock;
      const auto size = static_cast<std::size_t>(std::min(kBlock, count - begin));
      run_span(
          AdamwSpan<T, P, G>{
              parameter + begin,
              grad + begin,
              exp_avg + begin,
              exp_avg_sq + begin,
              master == nullptr ? nullptr : master + begin,
              size},
          factors);
    }
  });
}

void adamw_cpu(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const at::Tensor& exp_avg,
    const at::Tensor& exp_avg_sq,
    const std::optional<at::Tensor>& master,
    double lr,
    double beta1,
    double beta2,
    double eps,
    double weight_decay,
    std::int64_t step,
    double grad_scale) {
  const AdamwStep numbers{lr, beta1, beta2, eps, weight_decay, step, grad_scale};
  check_adamw(parameter, grad, {exp_avg, exp_avg_sq, master});
  const AdamwTensors tensors{
      parameter, grad.contiguous(), exp_avg, exp_avg_sq, master.value_or(at::Tensor())};
  if (parameter.scalar_type() == at::kDouble) {
    update<double, double, double>(tensors, adamw_factors<double>(numbers));
    return;
  }
  const auto factors = adamw_factors<float>(numbers);
  if (parameter.scalar_type() == at::kFloat) {
    update<float, float, float>(tensors, factors);
  } else if (tensors.grad.scalar_type() == at::kFloat) {
    update<float, std::uint16_t, float>(tensors, factors);
  } else {
    update<float, std::uint16_t, std::uint16_t>(tensors, factors);
  }
}

} // namespace
} // namespace baton::ops

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("adamw_", &baton::ops::adamw_cpu);
}
#endif // HWY_ONCE
