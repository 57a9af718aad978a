// SPDX-License-Identifier: Apache-2.0
// One token of the convolution on the CPU, vectors running over channels. Weights and states hold
// the K or K-1 values of a channel side by side.
#include "baton/ops/cpu/causal_conv1d_step.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/causal_conv1d.h"
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/slots.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/causal_conv1d_step.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

/// kCount values of each channel of a vector.
template <int kCount, class D>
struct Taps {
  hn::Vec<D> values[std::max(kCount, 1)];
};

/// Numbers that lie kCount apart, taken apart and put back. One of them is a plain vector; for more
/// than four there is no instruction, and rare enough to go through the stack.
template <int kCount, class D>
HWY_INLINE Taps<kCount, D> take_apart(D d, const hn::TFromD<D>* from) {
  Taps<kCount, D> taps;
  auto& v = taps.values;
  if constexpr (kCount == 1) {
    v[0] = hn::LoadU(d, from);
  } else if constexpr (kCount == 2) {
    hn::LoadInterleaved2(d, from, v[0], v[1]);
  } else if constexpr (kCount == 3) {
    hn::LoadInterleaved3(d, from, v[0], v[1], v[2]);
  } else if constexpr (kCount == 4) {
    hn::LoadInterleaved4(d, from, v[0], v[1], v[2], v[3]);
  } else {
    HWY_ALIGN hn::TFromD<D> turned[hn::MaxLanes(d)];
    for (int k = 0; k < kCount; ++k) {
      for (std::size_t lane = 0; lane < hn::Lanes(d); ++lane) {
        turned[lane] = from[lane * kCount + k];
      }
      v[k] = hn::Load(d, turned);
    }
  }
  return taps;
}

template <int kCount, class D>
HWY_INLINE void put_together(D d, const Taps<kCount, D>& taps, hn::TFromD<D>* to) {
  const auto& v = taps.values;
  if constexpr (kCount == 1) {
    hn::StoreU(v[0], d, to);
  } else if constexpr (kCount == 2) {
    hn::StoreInterleaved2(v[0], v[1], d, to);
  } else if constexpr (kCount == 3) {
    hn::StoreInterleaved3(v[0], v[1], v[2], d, to);
  } else if constexpr (kCount == 4) {
    hn::StoreInterleaved4(v[0], v[1], v[2], v[3], d, to);
  } else {
    HWY_ALIGN hn::TFromD<D> turned[hn::MaxLanes(d)];
    for (int k = 0; k < kCount; ++k) {
      hn::Store(v[k], d, turned);
      for (std::size_t lane = 0; lane < hn::Lanes(d); ++lane) {
        to[lane * kCount + k] = turned[lane];
      }
    }
  }
}

template <int kCount, class D>
HWY_INLINE Taps<kCount, D> load_taps(D d, const hn::TFromD<D>* from) {
  return take_apart<kCount>(d, from);
}

template <int kCount, class D>
HWY_INLINE Taps<kCount, D> load_taps(D d, const c10::BFloat16* from) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::uint32_t, D> d32;
  const auto halves = take_apart<kCount>(d16, reinterpret_cast<const std::uint16_t*>(from));
  Taps<kCount, D> taps;
  for (int k = 0; k < kCount; ++k) {
    taps.values[k] = hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, halves.values[k])));
  }
  return taps;
}

template <int kCount, class D>
HWY_INLINE void store_taps(D d, const Taps<kCount, D>& taps, hn::TFromD<D>* to) {
  put_together<kCount>(d, taps, to);
}

/// Values that are bf16 numbers already.
template <int kCount, class D>
HWY_INLINE void store_taps(D d, const Taps<kCount, D>& taps, c10::BFloat16* to) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::int32_t, D> d32s;
  const hn::Rebind<std::uint32_t, D> d32;
  Taps<kCount, hn::Rebind<std::uint16_t, D>> halves;
  for (int k = 0; k < kCount; ++k) {
    const auto high = hn::ShiftRight<16>(hn::BitCast(d32, taps.values[k]));
    halves.values[k] = hn::DemoteTo(d16, hn::BitCast(d32s, high));
  }
  put_together<kCount>(d16, halves, reinterpret_cast<std::uint16_t*>(to));
}

/// A value of a wider state as x's type holds it.
template <class T, class State, class D>
HWY_INLINE hn::Vec<D> as_input(D d, hn::Vec<D> value) {
  if constexpr (std::is_same_v<T, c10::BFloat16> && std::is_same_v<State, float>) {
    const hn::Rebind<std::uint32_t, D> d32;
    const auto upper = hn::And(vec::round_to_bfloat16(d, value), hn::Set(d32, 0xFFFF0000U));
    return hn::BitCast(d, upper);
  } else {
    return value;
  }
}

template <int kWidth, class T, class Parameter, class State>
void step_channels(const ConvStep& step, std::int64_t first, std::int64_t count) {
  using S = vec::Sum<T>;
  constexpr int kBefore = kWidth - 1;
  const T* x = static_cast<const T*>(step.x) + first;
  const auto* weight = static_cast<const Parameter*>(step.weight_CK) + first * kWidth;
  const auto* bias =
      step.bias != nullptr ? static_cast<const Parameter*>(step.bias) + first : nullptr;
  State* state =
      step.state_CK != nullptr ? static_cast<State*>(step.state_CK) + first * kBefore : nullptr;
  T* y = static_cast<T*>(step.y) + first;
  const bool silu = step.silu;
  vec::for_vectors<S>(count, [&](auto d, auto i) HWY_ATTR {
    const auto taps = load_taps<kWidth>(d, weight + i * kWidth);
    const auto newest = vec::load(d, x + i);
    auto sum = bias != nullptr ? vec::load(d, bias + i) : hn::Zero(d);
    if constexpr (kBefore > 0) {
      if (state != nullptr) {
        auto inputs = load_taps<kBefore>(d, state + i * kBefore);
        for (int k = 0; k < kBefore; ++k) {
          sum = hn::MulAdd(taps.values[k], as_input<T, State>(d, inputs.values[k]), sum);
        }
        for (int k = 1; k < kBefore; ++k) {
          inputs.values[k - 1] = inputs.values[k];
        }
        inputs.values[kBefore - 1] = newest;
        store_taps<kBefore>(d, inputs, state + i * kBefore);
      }
    }
    sum = hn::MulAdd(taps.values[kBefore], newest, sum);
    vec::store(d, silu ? vec::silu(d, sum) : sum, y + i);
  });
}

template <class T, class Parameter, class State>
void step_width(const ConvStep& step, std::int64_t first, std::int64_t count) {
  switch (step.width) {
    case 1:
      return step_channels<1, T, Parameter, State>(step, first, count);
    case 2:
      return step_channels<2, T, Parameter, State>(step, first, count);
    case 3:
      return step_channels<3, T, Parameter, State>(step, first, count);
    case 4:
      return step_channels<4, T, Parameter, State>(step, first, count);
    case 5:
      return step_channels<5, T, Parameter, State>(step, first, count);
    case 6:
      return step_channels<6, T, Parameter, State>(step, first, count);
    case 7:
      return step_channels<7, T, Parameter, State>(step, first, count);
    case 8:
      return step_channels<8, T, Parameter, State>(step, first, count);
    default:
      TORCH_INTERNAL_ASSERT(false, "no kernel for width ", step.width);
  }
}

void step_block(const ConvStep& step, std::int64_t first, std::int64_t count) {
  vec::with_types(step.dtype, step.parameter_dtype, [&](auto type, auto parameter) {
    vec::with_types(step.dtype, step.state_dtype, [&](auto same, auto state) {
      if constexpr (std::is_same_v<decltype(type), decltype(same)>) {
        step_width<decltype(type), decltype(parameter), decltype(state)>(step, first, count);
      }
    });
  });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops {
namespace {

HWY_EXPORT(step_block);

at::Tensor causal_conv1d_step_cpu(
    const at::Tensor& x_BC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const at::Tensor& states_SCK,
    const at::Tensor& slots_B,
    bool silu) {
  check_causal_conv1d(x_BC, weight_CK, bias_C, x_BC.size(0), states_SCK, slots_B);
  check_dense_slots(states_SCK);
  const auto slots = checked_distinct_slots(slots_B, states_SCK.size(0));
  const at::Tensor x = as_rows(x_BC);
  // Parameters have one dtype, the wider of theirs.
  const at::ScalarType parameters =
      at::promote_types(weight_CK.scalar_type(), bias_C.value_or(weight_CK).scalar_type());
  const at::Tensor weight = weight_CK.to(parameters).contiguous();
  const at::Tensor bias = bias_C ? bias_C->to(parameters).contiguous() : at::Tensor();
  at::Tensor y_BC = at::empty(x_BC.sizes(), x_BC.options());
  const std::int64_t channels = x_BC.size(1);
  const bool has_states = states_SCK.numel() > 0; // a width of 1 remembers nothing
  const auto row = [](const at::Tensor& tensor, std::int64_t values) {
    return static_cast<char*>(tensor.data_ptr()) +
           values * static_cast<std::int64_t>(tensor.element_size());
  };
  const auto step_of = [&](std::int64_t b) {
    const std::int64_t slot = slots[static_cast<std::size_t>(b)];
    return ConvStep{
        .dtype = x.scalar_type(),
        .parameter_dtype = parameters,
        .state_dtype = states_SCK.scalar_type(),
        .width = weight_CK.size(1),
        .channels = channels,
        .silu = silu,
        .x = row(x, b * x.stride(0)),
        .weight_CK = weight.const_data_ptr(),
        .bias = bias.defined() ? bias.const_data_ptr() : nullptr,
        .state_CK =
            slot < 0 || !has_states ? nullptr : row(states_SCK, slot * states_SCK.stride(0)),
        .y = row(y_BC, b * channels)};
  };
  const std::int64_t items = conv_step_items(channels);
  constexpr std::int64_t kGrain = 4; // items worth a thread
  at::parallel_for(0, x_BC.size(0) * items, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      run_conv_step_item(step_of(item / items), item % items);
    }
  });
  return y_BC;
}

} // namespace

void run_conv_step_item(const ConvStep& step, std::int64_t item) {
  const std::int64_t first = item * kConvStepChannels;
  const std::int64_t count = std::min(kConvStepChannels, step.channels - first);
  HWY_DYNAMIC_DISPATCH(step_block)(step, first, count);
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("causal_conv1d_step_", causal_conv1d_step_cpu);
}

} // namespace baton::ops
#endif
