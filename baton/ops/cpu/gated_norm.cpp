// SPDX-License-Identifier: Apache-2.0
// CPU kernels of gated_norm. The backward pass computes gate and norm again instead of keeping
// them.
#include "baton/ops/gated_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/block_sums.h"
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/gated_norm.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

#ifndef BATON_OPS_CPU_GATED_NORM_ONCE
#define BATON_OPS_CPU_GATED_NORM_ONCE
namespace baton::ops {

enum class GateOrder { kNoNorm, kGateFirst, kGateLast };

/// Rows of one call; strides count values. `weight` is in the type of the sums.
struct GatedNormRows {
  c10::ScalarType dtype;
  GateOrder order;
  const void* y;
  const void* z;
  const void* weight; ///< null without a norm
  const void* dout;   ///< backward only
  void* out;          ///< out, or dy
  void* dz;           ///< backward only
  std::int64_t channels;
  std::int64_t group;
  std::int64_t y_stride;
  std::int64_t z_stride;
  std::int64_t dout_stride;
  double eps;
};

} // namespace baton::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

/// One group of channels of one row.
template <class T>
struct Group {
  using S = vec::Sum<T>;

  Group(const GatedNormRows& task, std::int64_t row, std::int64_t first)
      : y(static_cast<const T*>(task.y) + row * task.y_stride + first),
        z(static_cast<const T*>(task.z) + row * task.z_stride + first),
        weight(static_cast<const S*>(task.weight) + first),
        dout(static_cast<const T*>(task.dout) + row * task.dout_stride + first),
        out(static_cast<T*>(task.out) + row * task.channels + first),
        dz(static_cast<T*>(task.dz) + row * task.channels + first) {}

  const T* y;
  const T* z;
  const S* weight;
  const T* dout;
  T* out;
  T* dz;
};

template <class S>
S inverse_rms(S squares, const GatedNormRows& task) {
  return S(1) / std::sqrt(squares / static_cast<S>(task.group) + static_cast<S>(task.eps));
}

template <class T>
void gate_only(const GatedNormRows& task, const Group<T>& g) {
  vec::for_vectors<vec::Sum<T>>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto gate = vec::silu(d, vec::load(d, g.z + i));
    vec::store(d, hn::Mul(vec::load(d, g.y + i), gate), g.out + i);
  });
}

template <class T, bool kGateFirst>
void norm_group(const GatedNormRows& task, const Group<T>& g) {
  using S = vec::Sum<T>;
  const S squares = vec::sum_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    auto value = vec::load(d, g.y + i);
    if constexpr (kGateFirst) {
      value = hn::Mul(value, vec::silu(d, vec::load(d, g.z + i)));
    }
    return hn::Mul(value, value);
  });
  const S scale = inverse_rms(squares, task);
  vec::for_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto gated = hn::Mul(vec::load(d, g.y + i), vec::silu(d, vec::load(d, g.z + i)));
    const auto factor = hn::Mul(hn::LoadU(d, g.weight + i), hn::Set(d, scale));
    vec::store(d, hn::Mul(gated, factor), g.out + i);
  });
}

template <class T>
void gate_only_backward(const GatedNormRows& task, const Group<T>& g) {
  vec::for_vectors<vec::Sum<T>>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto z = vec::load(d, g.z + i);
    const auto dout = vec::load(d, g.dout + i);
    const auto share = vec::sigmoid(d, z);
    const auto dgate = hn::Mul(dout, vec::load(d, g.y + i));
    vec::store(d, hn::Mul(dout, hn::Mul(z, share)), g.out + i);
    vec::store(d, hn::Mul(dgate, vec::silu_slope(d, z, share)), g.dz + i);
  });
}

/// With u = y silu(z), r its inverse root mean square and e = w dout:
/// du = r (e - u r^2 mean(e u)), dy = du silu(z), dz = du y silu'(z), dw += dout u r.
template <class T>
void gate_first_backward(const GatedNormRows& task, const Group<T>& g, vec::Sum<T>* dweight) {
  using S = vec::Sum<T>;
  const auto gated = [&](auto d, auto i) HWY_ATTR {
    return hn::Mul(vec::load(d, g.y + i), vec::silu(d, vec::load(d, g.z + i)));
  };
  const S squares = vec::sum_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto u = gated(d, i);
    return hn::Mul(u, u);
  });
  const S product = vec::sum_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto e = hn::Mul(hn::LoadU(d, g.weight + i), vec::load(d, g.dout + i));
    return hn::Mul(e, gated(d, i));
  });
  const S r = inverse_rms(squares, task);
  const S pull = r * r * product / static_cast<S>(task.group);
  vec::for_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto y = vec::load(d, g.y + i);
    const auto z = vec::load(d, g.z + i);
    const auto dout = vec::load(d, g.dout + i);
    const auto share = vec::sigmoid(d, z);
    const auto gate = hn::Mul(z, share);
    const auto u = hn::Mul(y, gate);
    const auto along = hn::Mul(u, hn::Set(d, pull));
    const auto e_less = hn::MulSub(hn::LoadU(d, g.weight + i), dout, along);
    const auto du = hn::Mul(e_less, hn::Set(d, r));
    vec::store(d, hn::Mul(du, gate), g.out + i);
    vec::store(d, hn::Mul(hn::Mul(du, y), vec::silu_slope(d, z, share)), g.dz + i);
    const auto normed = hn::Mul(u, hn::Set(d, r));
    hn::StoreU(hn::MulAdd(dout, normed, hn::LoadU(d, dweight + i)), d, dweight + i);
  });
}

/// With n = y r w and e = dout silu(z): dy = r (w e - y r^2 mean(w e y)), dz = dout n silu'(z),
/// dw += e y r.
template <class T>
void gate_last_backward(const GatedNormRows& task, const Group<T>& g, vec::Sum<T>* dweight) {
  using S = vec::Sum<T>;
  const S squares = vec::sum_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto y = vec::load(d, g.y + i);
    return hn::Mul(y, y);
  });
  const S product = vec::sum_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto e = hn::Mul(vec::load(d, g.dout + i), vec::silu(d, vec::load(d, g.z + i)));
    return hn::Mul(hn::Mul(hn::LoadU(d, g.weight + i), e), vec::load(d, g.y + i));
  });
  const S r = inverse_rms(squares, task);
  const S pull = r * r * product / static_cast<S>(task.group);
  vec::for_vectors<S>(task.group, [&](auto d, auto i) HWY_ATTR {
    const auto y = vec::load(d, g.y + i);
    const auto z = vec::load(d, g.z + i);
    const auto dout = vec::load(d, g.dout + i);
    const auto weight = hn::LoadU(d, g.weight + i);
    const auto share = vec::sigmoid(d, z);
    const auto e = hn::Mul(dout, hn::Mul(z, share));
    const auto along = hn::Mul(y, hn::Set(d, pull));
    vec::store(d, hn::Mul(hn::MulSub(weight, e, along), hn::Set(d, r)), g.out + i);
    const auto normed = hn::Mul(y, hn::Set(d, r));
    const auto dgate = hn::Mul(dout, hn::Mul(normed, weight));
    vec::store(d, hn::Mul(dgate, vec::silu_slope(d, z, share)), g.dz + i);
    hn::StoreU(hn::MulAdd(e, normed, hn::LoadU(d, dweight + i)), d, dweight + i);
  });
}

template <class F>
void for_groups(const GatedNormRows& task, std::int64_t begin, std::int64_t end, const F& f) {
  vec::with_type(task.dtype, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t first = 0; first < task.channels; first += task.group) {
        f(Group<T>(task, row, first), first);
      }
    }
  });
}

void gated_norm_rows(const GatedNormRows& task, std::int64_t begin, std::int64_t end) {
  for_groups(task, begin, end, [&]<class T>(const Group<T>& group, std::int64_t) {
    switch (task.order) {
      case GateOrder::kNoNorm:
        return gate_only(task, group);
      case GateOrder::kGateFirst:
        return norm_group<T, true>(task, group);
      case GateOrder::kGateLast:
        return norm_group<T, false>(task, group);
    }
  });
}

void gated_norm_backward_rows(
    const GatedNormRows& task,
    std::int64_t begin,
    std::int64_t end,
    void* dweight) {
  for_groups(task, begin, end, [&]<class T>(const Group<T>& group, std::int64_t first) {
    auto* sums = static_cast<vec::Sum<T>*>(dweight) + first;
    switch (task.order) {
      case GateOrder::kNoNorm:
        return gate_only_backward(task, group);
      case GateOrder::kGateFirst:
        return gate_first_backward(task, group, sums);
      case GateOrder::kGateLast:
        return gate_last_backward(task, group, sums);
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

HWY_EXPORT(gated_norm_rows);
HWY_EXPORT(gated_norm_backward_rows);

using OptionalTensor = std::optional<at::Tensor>;

// Rows of a block hold about this many values: enough work for a thread, little memory for sums.
constexpr std::int64_t kValuesPerBlock = 65536;

std::int64_t rows_per_block(std::int64_t channels) {
  return std::max<std::int64_t>(1, kValuesPerBlock / std::max<std::int64_t>(1, channels));
}

/// The dense views of one call, which must outlive its task.
struct Operands {
  Operands(const at::Tensor& y_TD, const at::Tensor& z_TD, const OptionalTensor& weight_D)
      : y(as_rows(y_TD)),
        z(as_rows(z_TD)),
        sums(y_TD.options().dtype(y_TD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat)) {
    if (weight_D) {
      weight = weight_D->to(sums.dtype()).contiguous();
    }
  }

  GatedNormRows task(double eps, std::int64_t group_size, bool gate_first) const {
    GatedNormRows rows{};
    rows.dtype = y.scalar_type();
    rows.order = !weight.defined() ? GateOrder::kNoNorm
                 : gate_first      ? GateOrder::kGateFirst
                                   : GateOrder::kGateLast;
    rows.y = y.const_data_ptr();
    rows.z = z.const_data_ptr();
    rows.weight = weight.defined() ? weight.const_data_ptr() : nullptr;
    rows.channels = y.size(1);
    rows.group = weight.defined() ? group_size : y.size(1);
    rows.y_stride = y.stride(0);
    rows.z_stride = z.stride(0);
    rows.eps = eps;
    return rows;
  }

  at::Tensor y;
  at::Tensor z;
  at::TensorOptions sums;
  at::Tensor weight;
};

at::Tensor gated_norm_cpu(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  check_gated_norm(y_TD, z_TD, weight_D, eps, group_size);
  at::Tensor out = at::empty(y_TD.sizes(), y_TD.options());
  if (out.numel() == 0) {
    return out;
  }
  const Operands operands(y_TD, z_TD, weight_D);
  GatedNormRows task = operands.task(eps, group_size, gate_first);
  task.out = out.mutable_data_ptr();
  at::parallel_for(
      0, y_TD.size(0), rows_per_block(task.channels), [&](std::int64_t begin, std::int64_t end) {
        HWY_DYNAMIC_DISPATCH(gated_norm_rows)(task, begin, end);
      });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gated_norm_backward_cpu(
    const at::Tensor& dout_TD,
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const OptionalTensor& weight_D,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  check_gated_norm(y_TD, z_TD, weight_D, eps, group_size);
  check_same("dout", dout_TD, "y", y_TD);
  at::Tensor dy = at::empty(y_TD.sizes(), y_TD.options());
  at::Tensor dz = at::empty(z_TD.sizes(), z_TD.options());
  const Operands operands(y_TD, z_TD, weight_D);
  const at::Tensor dout = as_rows(dout_TD);
  const std::int64_t num_rows = y_TD.size(0);
  const std::int64_t block = rows_per_block(y_TD.size(1));
  const std::int64_t num_blocks = (num_rows + block - 1) / block;
  const at::Tensor partials = at::zeros({num_blocks, y_TD.size(1)}, operands.sums);
  if (dy.numel() > 0) {
    GatedNormRows task = operands.task(eps, group_size, gate_first);
    task.dout = dout.const_data_ptr();
    task.dout_stride = dout.stride(0);
    task.out = dy.mutable_data_ptr();
    task.dz = dz.mutable_data_ptr();
    auto* sums = static_cast<char*>(partials.mutable_data_ptr());
    const auto bytes = static_cast<std::int64_t>(partials.element_size()) * task.channels;
    at::parallel_for(0, num_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        HWY_DYNAMIC_DISPATCH(gated_norm_backward_rows)
        (task, i * block, std::min(num_rows, (i + 1) * block), sums + i * bytes);
      }
    });
  }
  const at::Tensor dweight =
      weight_D ? sum_over_blocks(partials).to(weight_D->scalar_type(), false, true)
               : at::empty({0}, y_TD.options());
  return {dy, dz, dweight};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("gated_norm", gated_norm_cpu);
  library.impl("gated_norm_backward", gated_norm_backward_cpu);
}

} // namespace baton::ops
#endif
