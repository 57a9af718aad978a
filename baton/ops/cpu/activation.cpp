// SPDX-License-Identifier: Apache-2.0
// CPU kernels of squared_relu and swiglu.
#include "baton/ops/activation.h"

#include <algorithm>
#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/activation.h"
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/activation.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

/// max(x, 0) that keeps a NaN, which the vector maximum of x86 would turn into zero.
template <class D>
HWY_INLINE hn::Vec<D> positive_part(D d, hn::Vec<D> x) {
  return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
}

template <class T>
struct Row {
  Row(const ActivationRows& task, std::int64_t row)
      : x(static_cast<const T*>(task.x) + row * task.x_stride),
        dy(static_cast<const T*>(task.dy) + row * task.dy_stride),
        out(static_cast<T*>(task.out) + row * task.out_stride) {}

  const T* x;
  const T* dy;
  T* out;
};

template <class F>
void for_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end, const F& f) {
  vec::with_type(task.dtype, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t i = begin; i < end; ++i) {
      f(Row<T>(task, i), vec::Sum<T>());
    }
  });
}

void squared_relu_forward_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end) {
  for_rows(task, begin, end, [&](const auto& row, auto sum) {
    vec::for_vectors<decltype(sum)>(task.channels, [&](auto d, auto i) HWY_ATTR {
      const auto positive = positive_part(d, vec::load(d, row.x + i));
      vec::store(d, hn::Mul(positive, positive), row.out + i);
    });
  });
}

void squared_relu_backward_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end) {
  for_rows(task, begin, end, [&](const auto& row, auto sum) {
    vec::for_vectors<decltype(sum)>(task.channels, [&](auto d, auto i) HWY_ATTR {
      const auto positive = positive_part(d, vec::load(d, row.x + i));
      const auto slope = hn::Add(positive, positive);
      vec::store(d, hn::Mul(vec::load(d, row.dy + i), slope), row.out + i);
    });
  });
}

void swiglu_forward_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end) {
  for_rows(task, begin, end, [&](const auto& row, auto sum) {
    vec::for_vectors<decltype(sum)>(task.channels, [&](auto d, auto i) HWY_ATTR {
      const auto gate = vec::silu(d, vec::load(d, row.x + i));
      const auto up = vec::load(d, row.x + task.channels + i);
      vec::store(d, hn::Mul(gate, up), row.out + i);
    });
  });
}

void swiglu_backward_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end) {
  for_rows(task, begin, end, [&](const auto& row, auto sum) {
    vec::for_vectors<decltype(sum)>(task.channels, [&](auto d, auto i) HWY_ATTR {
      const auto gate = vec::load(d, row.x + i);
      const auto up = vec::load(d, row.x + task.channels + i);
      const auto dy = vec::load(d, row.dy + i);
      const auto share = vec::sigmoid(d, gate);
      const auto slope = vec::silu_slope(d, gate, share);
      vec::store(d, hn::Mul(hn::Mul(dy, up), slope), row.out + i);
      vec::store(d, hn::Mul(dy, hn::Mul(gate, share)), row.out + task.channels + i);
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

HWY_EXPORT(squared_relu_forward_rows);
HWY_EXPORT(squared_relu_backward_rows);
HWY_EXPORT(swiglu_forward_rows);
HWY_EXPORT(swiglu_backward_rows);

using Kernel = void (*)(const ActivationRows&, std::int64_t, std::int64_t);

void run(Kernel kernel, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& out) {
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor dy_TF = dy.defined() ? as_rows(dy) : at::Tensor();
  const std::int64_t out_channels = out.size(-1);
  const std::int64_t channels = dy.defined() ? dy.size(-1) : out_channels;
  const ActivationRows task{
      .dtype = x.scalar_type(),
      .x = x_TD.const_data_ptr(),
      .dy = dy.defined() ? dy_TF.const_data_ptr() : nullptr,
      .out = out.mutable_data_ptr(),
      .channels = channels,
      .x_stride = x_TD.stride(0),
      .dy_stride = dy.defined() ? dy_TF.stride(0) : 0,
      .out_stride = out_channels};
  constexpr std::int64_t kValuesPerItem = 16384;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kValuesPerItem / std::max<std::int64_t>(1, channels));
  at::parallel_for(0, x_TD.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
    kernel(task, begin, end);
  });
}

at::Tensor squared_relu_cpu(const at::Tensor& x) {
  check_activation("x", x);
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (x.numel() > 0) {
    run(squared_relu_rows, at::atleast_1d(x), {}, at::atleast_1d(y));
  }
  return y;
}

at::Tensor squared_relu_backward_cpu(const at::Tensor& dy, const at::Tensor& x) {
  check_same("dy", dy, "x", x);
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (x.numel() > 0) {
    run(HWY_DYNAMIC_DISPATCH(squared_relu_backward_rows),
        at::atleast_1d(x),
        at::atleast_1d(dy),
        at::atleast_1d(dx));
  }
  return dx;
}

at::Tensor swiglu_cpu(const at::Tensor& x) {
  check_activation("x", x);
  TORCH_CHECK(
      x.dim() >= 1 && x.size(-1) % 2 == 0, "the last dim of x must be even, got ", x.sizes());
  std::vector<std::int64_t> sizes = x.sizes().vec();
  sizes.back() /= 2;
  at::Tensor y = at::empty(sizes, x.options());
  if (y.numel() > 0) {
    run(swiglu_rows, x, {}, y);
  }
  return y;
}

at::Tensor swiglu_backward_cpu(const at::Tensor& dy, const at::Tensor& x) {
  check_activation("x", x);
  TORCH_CHECK(
      x.dim() >= 1 && dy.dim() == x.dim() && dy.size(-1) * 2 == x.size(-1) &&
          dy.scalar_type() == x.scalar_type(),
      "dy must have half the channels of x: ",
      dy.sizes(),
      " vs ",
      x.sizes());
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (x.numel() > 0) {
    run(HWY_DYNAMIC_DISPATCH(swiglu_backward_rows), x, dy, dx);
  }
  return dx;
}

} // namespace

void squared_relu_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(squared_relu_forward_rows)(task, begin, end);
}

void swiglu_rows(const ActivationRows& task, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_forward_rows)(task, begin, end);
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("squared_relu", squared_relu_cpu);
  library.impl("squared_relu_backward", squared_relu_backward_cpu);
  library.impl("swiglu", swiglu_cpu);
  library.impl("swiglu_backward", swiglu_backward_cpu);
}

} // namespace baton::ops
#endif
