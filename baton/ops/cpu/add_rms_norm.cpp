// SPDX-License-Identifier: Apache-2.0
// CPU kernels of add_rms_norm.
#include "baton/ops/add_rms_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/block_sums.h"
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/cpu/row_blocks.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/add_rms_norm.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

#ifndef BATON_OPS_CPU_ADD_RMS_NORM_ONCE
#define BATON_OPS_CPU_ADD_RMS_NORM_ONCE
namespace baton::ops {

/// Rows of one call; strides count values, outputs are dense. `weight` is in the type of the sums.
struct AddRmsNormRows {
  c10::ScalarType residual_dtype;
  c10::ScalarType update_dtype;
  std::int64_t channels;
  const void* weight;
  double eps;
  double scale;
};

struct AddRmsNormForward {
  AddRmsNormRows of;
  const void* residual;
  const void* update;
  std::int64_t residual_stride;
  std::int64_t update_stride;
  void* sum;
  void* normed;
};

struct AddRmsNormBackward {
  AddRmsNormRows of;
  const void* dsum; ///< null: zeros
  const void* dnormed;
  const void* sum;
  std::int64_t dsum_stride;
  std::int64_t dnormed_stride;
  std::int64_t sum_stride;
  void* dresidual;
  void* dupdate; ///< null: not wanted
};

} // namespace baton::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

/// Calls `f` with values of the types of the update and of the residual.
template <class F>
void with_types(const AddRmsNormRows& of, const F& f) {
  vec::with_type(of.update_dtype, [&](auto update) {
    if constexpr (std::is_same_v<decltype(update), c10::BFloat16>) {
      if (of.residual_dtype == c10::ScalarType::Float) {
        return f(update, float{});
      }
    }
    return f(update, update);
  });
}

template <class T, class S = vec::Sum<T>>
S inverse_rms(const T* values, const AddRmsNormRows& of) {
  const S squares = vec::sum_vectors<S>(of.channels, [&](auto d, auto i) HWY_ATTR {
    const auto value = vec::load(d, values + i);
    return hn::Mul(value, value);
  });
  return S(1) / std::sqrt(squares / static_cast<S>(of.channels) + static_cast<S>(of.eps));
}

template <class T, class R>
void forward_row(const AddRmsNormForward& task, std::int64_t row) {
  using S = vec::Sum<T>;
  const std::int64_t channels = task.of.channels;
  const R* residual = static_cast<const R*>(task.residual) + row * task.residual_stride;
  const T* update = static_cast<const T*>(task.update) + row * task.update_stride;
  const S* weight = static_cast<const S*>(task.of.weight);
  R* sum = static_cast<R*>(task.sum) + row * channels;
  T* normed = static_cast<T*>(task.normed) + row * channels; // first holds what is normed
  vec::for_vectors<S>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto scale = hn::Set(d, static_cast<S>(task.of.scale));
    const auto total = hn::MulAdd(scale, vec::load(d, update + i), vec::load(d, residual + i));
    vec::store(d, total, sum + i);
    vec::store(d, vec::load(d, sum + i), normed + i);
  });
  const S inverse = inverse_rms(normed, task.of);
  vec::for_vectors<S>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto value = hn::Mul(vec::load(d, normed + i), hn::Set(d, inverse));
    vec::store(d, hn::Mul(value, hn::LoadU(d, weight + i)), normed + i);
  });
}

/// With v the sum in the update's type and r its inverse root mean square: d = dsum + r (w dnormed
/// - v r^2 mean(w dnormed v)) for the residual, scale * d for the update, dweight += dnormed v r.
/// `values` is room for a row.
template <class T, class R>
void backward_row(
    const AddRmsNormBackward& task,
    std::int64_t row,
    T* values,
    vec::Sum<T>* dweight) {
  using S = vec::Sum<T>;
  const std::int64_t channels = task.of.channels;
  const R* sum = static_cast<const R*>(task.sum) + row * task.sum_stride;
  const R* dsum = task.dsum ? static_cast<const R*>(task.dsum) + row * task.dsum_stride : nullptr;
  const T* dnormed = static_cast<const T*>(task.dnormed) + row * task.dnormed_stride;
  const S* weight = static_cast<const S*>(task.of.weight);
  R* dresidual = static_cast<R*>(task.dresidual) + row * channels;
  T* dupdate = task.dupdate ? static_cast<T*>(task.dupdate) + row * channels : nullptr;
  vec::for_vectors<S>(
      channels, [&](auto d, auto i) HWY_ATTR { vec::store(d, vec::load(d, sum + i), values + i); });
  const S inverse = inverse_rms(values, task.of);
  const S product = vec::sum_vectors<S>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto weighted = hn::Mul(hn::LoadU(d, weight + i), vec::load(d, dnormed + i));
    return hn::Mul(weighted, vec::load(d, values + i));
  });
  const S pull = inverse * inverse * product / static_cast<S>(channels);
  vec::for_vectors<S>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto value = vec::load(d, values + i);
    const auto gradient = vec::load(d, dnormed + i);
    const auto r = hn::Set(d, inverse);
    const auto along = hn::Mul(value, hn::Set(d, pull));
    const auto across = hn::MulSub(hn::LoadU(d, weight + i), gradient, along);
    const auto before = dsum ? vec::load(d, dsum + i) : hn::Zero(d);
    const auto total = hn::MulAdd(across, r, before);
    vec::store(d, total, dresidual + i);
    if (dupdate) {
      vec::store(d, hn::Mul(total, hn::Set(d, static_cast<S>(task.of.scale))), dupdate + i);
    }
    const auto of_weight = hn::MulAdd(hn::Mul(value, r), gradient, hn::LoadU(d, dweight + i));
    hn::StoreU(of_weight, d, dweight + i);
  });
}

void forward_rows(const AddRmsNormForward& task, std::int64_t begin, std::int64_t end) {
  with_types(task.of, [&](auto update, auto residual) {
    for (std::int64_t row = begin; row < end; ++row) {
      forward_row<decltype(update), decltype(residual)>(task, row);
    }
  });
}

void backward_rows(
    const AddRmsNormBackward& task,
    std::int64_t begin,
    std::int64_t end,
    void* dweight) {
  with_types(task.of, [&](auto update, auto residual) {
    using T = decltype(update);
    std::vector<T> values(static_cast<std::size_t>(task.of.channels));
    for (std::int64_t row = begin; row < end; ++row) {
      backward_row<T, decltype(residual)>(
          task, row, values.data(), static_cast<vec::Sum<T>*>(dweight));
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

AddRmsNormRows make_rows(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight_D,
    const AddRmsNormConfig& config) {
  return {
      .residual_dtype = residual.scalar_type(),
      .update_dtype = update.scalar_type(),
      .channels = update.size(-1),
      .weight = weight_D.const_data_ptr(),
      .eps = config.eps,
      .scale = config.scale};
}

std::tuple<at::Tensor, at::Tensor> add_rms_norm_cpu(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    double eps,
    double scale) {
  check_add_rms_norm(residual, update, weight, eps);
  const at::Tensor residual_TD = as_rows(residual);
  const at::Tensor update_TD = as_rows(update);
  const at::Tensor weight_D = weight.to(sum_dtype(update)).contiguous();
  at::Tensor sum = at::empty(residual.sizes(), residual.options());
  at::Tensor normed = at::empty(update.sizes(), update.options());
  const AddRmsNormForward task{
      .of = make_rows(residual, update, weight_D, {eps, scale}),
      .residual = residual_TD.const_data_ptr(),
      .update = update_TD.const_data_ptr(),
      .residual_stride = residual_TD.stride(0),
      .update_stride = update_TD.stride(0),
      .sum = sum.mutable_data_ptr(),
      .normed = normed.mutable_data_ptr()};
  at::parallel_for(
      0,
      update_TD.size(0),
      rows_per_block(task.of.channels),
      [&](std::int64_t begin, std::int64_t end) {
        HWY_DYNAMIC_DISPATCH(forward_rows)(task, begin, end);
      });
  return {sum, normed};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_rms_norm_backward_cpu(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    double eps,
    double scale) {
  check_add_rms_norm_backward(dsum, dnormed, sum, weight, eps);
  const at::Tensor dsum_TD = dsum ? as_rows(*dsum) : at::Tensor();
  const at::Tensor dnormed_TD = as_rows(dnormed);
  const at::Tensor sum_TD = as_rows(sum);
  const at::Tensor weight_D = weight.to(sum_dtype(dnormed)).contiguous();
  const bool shared = shares_gradient(sum, dnormed, scale);
  at::Tensor dresidual = at::empty(sum.sizes(), sum.options());
  at::Tensor dupdate = at::empty(shared ? at::IntArrayRef{0} : dnormed.sizes(), dnormed.options());
  const AddRmsNormBackward task{
      .of = make_rows(sum, dnormed, weight_D, {eps, scale}),
      .dsum = dsum ? dsum_TD.const_data_ptr() : nullptr,
      .dnormed = dnormed_TD.const_data_ptr(),
      .sum = sum_TD.const_data_ptr(),
      .dsum_stride = dsum ? dsum_TD.stride(0) : 0,
      .dnormed_stride = dnormed_TD.stride(0),
      .sum_stride = sum_TD.stride(0),
      .dresidual = dresidual.mutable_data_ptr(),
      .dupdate = shared ? nullptr : dupdate.mutable_data_ptr()};
  const std::int64_t num_rows = sum_TD.size(0);
  const std::int64_t block = rows_per_block(task.of.channels);
  const std::int64_t num_blocks = (num_rows + block - 1) / block;
  const at::Tensor partials = at::zeros({num_blocks, task.of.channels}, weight_D.options());
  auto* sums = static_cast<char*>(partials.mutable_data_ptr());
  const auto bytes = static_cast<std::int64_t>(partials.element_size()) * task.of.channels;
  at::parallel_for(0, num_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(backward_rows)
      (task, i * block, std::min(num_rows, (i + 1) * block), sums + i * bytes);
    }
  });
  return {dresidual, dupdate, sum_over_blocks(partials).to(weight.scalar_type(), false, true)};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("add_rms_norm", add_rms_norm_cpu);
  library.impl("add_rms_norm_backward", add_rms_norm_backward_cpu);
}

} // namespace baton::ops
#endif
