// SPDX-License-Identifier: Apache-2.0
// CPU kernels of rms_norm.
#include "baton/ops/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/block_sums.h"
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/cpu/rms_norm.h"
#include "baton/ops/cpu/row_blocks.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

template <class T>
vec::Sum<T> inverse_rms(const T* x, std::int64_t channels, double eps) {
  using S = vec::Sum<T>;
  const S squares = vec::sum_vectors<S>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto value = vec::load(d, x + i);
    return hn::Mul(value, value);
  });
  return S(1) / std::sqrt(squares / static_cast<S>(channels) + static_cast<S>(eps));
}

template <class T, class Weight>
void forward_row(const RmsNormRows& task, std::int64_t row) {
  using S = vec::Sum<T>;
  const T* x = static_cast<const T*>(task.x) + row * task.x_stride;
  const Weight* weight = static_cast<const Weight*>(task.weight);
  T* y = static_cast<T*>(task.out) + row * task.channels;
  const S scale = inverse_rms(x, task.channels, task.eps);
  vec::for_vectors<S>(task.channels, [&](auto d, auto i) HWY_ATTR {
    const auto normed = hn::Mul(vec::load(d, x + i), hn::Set(d, scale));
    vec::store(d, hn::Mul(normed, vec::load(d, weight + i)), y + i);
  });
}

/// dx = r * (w dy - x r^2 mean(w dy x)) and dweight += dy x r, with r the inverse root mean square.
template <class T>
void backward_row(const RmsNormRows& task, std::int64_t row, vec::Sum<T>* dweight) {
  using S = vec::Sum<T>;
  const T* x = static_cast<const T*>(task.x) + row * task.x_stride;
  const T* dy = static_cast<const T*>(task.dy) + row * task.dy_stride;
  const S* weight = static_cast<const S*>(task.weight);
  T* dx = static_cast<T*>(task.out) + row * task.channels;
  const S scale = inverse_rms(x, task.channels, task.eps);
  const S product = vec::sum_vectors<S>(task.channels, [&](auto d, auto i) HWY_ATTR {
    const auto weighted = hn::Mul(hn::LoadU(d, weight + i), vec::load(d, dy + i));
    return hn::Mul(weighted, vec::load(d, x + i));
  });
  const S pull = scale * scale * product / static_cast<S>(task.channels);
  vec::for_vectors<S>(task.channels, [&](auto d, auto i) HWY_ATTR {
    const auto value = vec::load(d, x + i);
    const auto gradient = vec::load(d, dy + i);
    const auto r = hn::Set(d, scale);
    const auto along = hn::Mul(value, hn::Set(d, pull));
    const auto across = hn::MulSub(hn::LoadU(d, weight + i), gradient, along);
    vec::store(d, hn::Mul(across, r), dx + i);
    const auto sum = hn::MulAdd(hn::Mul(value, r), gradient, hn::LoadU(d, dweight + i));
    hn::StoreU(sum, d, dweight + i);
  });
}

void forward_rows(const RmsNormRows& task, std::int64_t begin, std::int64_t end) {
  vec::with_types(task.dtype, task.weight_dtype, [&](auto type, auto weight) {
    for (std::int64_t row = begin; row < end; ++row) {
      forward_row<decltype(type), decltype(weight)>(task, row);
    }
  });
}

void backward_rows(const RmsNormRows& task, std::int64_t begin, std::int64_t end, void* dweight) {
  vec::with_type(task.dtype, [&](auto type) {
    using S = vec::Sum<decltype(type)>;
    for (std::int64_t row = begin; row < end; ++row) {
      backward_row<decltype(type)>(task, row, static_cast<S*>(dweight));
    }
  });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops {
namespace {

HWY_EXPORT(forward_rows);
HWY_EXPORT(backward_rows);

at::Tensor rms_norm_cpu(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_rms_norm(x, weight, eps);
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor weight_D = weight.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  const RmsNormRows task{
      .dtype = x.scalar_type(),
      .weight_dtype = weight_D.scalar_type(),
      .x = x_TD.const_data_ptr(),
      .weight = weight_D.const_data_ptr(),
      .dy = nullptr,
      .out = y.mutable_data_ptr(),
      .channels = x_TD.size(1),
      .x_stride = x_TD.stride(0),
      .dy_stride = 0,
      .eps = eps};
  at::parallel_for(
      0, x_TD.size(0), rows_per_block(task.channels), [&](std::int64_t begin, std::int64_t end) {
        rms_norm_rows(task, begin, end);
      });
  return y;
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward_cpu(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight,
    double eps) {
  check_rms_norm(x, weight, eps);
  check_same("dy", dy, "x", x);
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor dy_TD = as_rows(dy);
  const at::Tensor weight_D = weight.to(sum_dtype(x)).contiguous();
  at::Tensor dx = at::empty(x.sizes(), x.options());
  const std::int64_t num_rows = x_TD.size(0);
  const std::int64_t block = rows_per_block(x_TD.size(1));
  const std::int64_t num_blocks = (num_rows + block - 1) / block;
  const at::Tensor partials = at::zeros({num_blocks, x_TD.size(1)}, weight_D.options());
  const RmsNormRows task{
      .dtype = x.scalar_type(),
      .weight_dtype = weight_D.scalar_type(),
      .x = x_TD.const_data_ptr(),
      .weight = weight_D.const_data_ptr(),
      .dy = dy_TD.const_data_ptr(),
      .out = dx.mutable_data_ptr(),
      .channels = x_TD.size(1),
      .x_stride = x_TD.stride(0),
      .dy_stride = dy_TD.stride(0),
      .eps = eps};
  auto* sums = static_cast<char*>(partials.mutable_data_ptr());
  const auto bytes = static_cast<std::int64_t>(partials.element_size()) * task.channels;
  at::parallel_for(0, num_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(backward_rows)
      (task, i * block, std::min(num_rows, (i + 1) * block), sums + i * bytes);
    }
  });
  return {dx, sum_over_blocks(partials).to(weight.scalar_type(), false, true)};
}

} // namespace

void rms_norm_rows(const RmsNormRows& task, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(forward_rows)(task, begin, end);
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("rms_norm", rms_norm_cpu);
  library.impl("rms_norm_backward", rms_norm_backward_cpu);
}

} // namespace baton::ops
#endif
