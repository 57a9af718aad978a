// SPDX-License-Identifier: Apache-2.0
// CPU kernels of gated_norm.
#include "baton/ops/gated_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/cpu/block_sums.h"
#include "baton/ops/cpu/gated_norm.h"
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/cpu/row_blocks.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/gated_norm.cpp"
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
void gate_row(const T* y, const T* z, T* out, std::int64_t channels) {
  vec::for_vectors<vec::Sum<T>>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto gate = vec::silu(d, vec::load(d, z + i));
    vec::store(d, hn::Mul(vec::load(d, y + i), gate), out + i);
  });
}

template <class T>
void gate_row_backward(const T* dout, const T* y, const T* z, T* dy, T* dz, std::int64_t channels) {
  vec::for_vectors<vec::Sum<T>>(channels, [&](auto d, auto i) HWY_ATTR {
    const auto before = vec::load(d, z + i);
    const auto gradient = vec::load(d, dout + i);
    const auto s = vec::sigmoid(d, before);
    vec::store(d, hn::Mul(gradient, hn::Mul(before, s)), dy + i);
    const auto dgate = hn::Mul(gradient, vec::load(d, y + i));
    vec::store(d, hn::Mul(dgate, vec::silu_slope(d, before, s)), dz + i);
  });
}

template <class S>
S inverse_rms(const S* values, std::int64_t n, double eps) {
  const S squares = vec::sum_vectors<S>(n, [&](auto d, auto i) HWY_ATTR {
    const auto value = hn::LoadU(d, values + i);
    return hn::Mul(value, value);
  });
  return S(1) / std::sqrt(squares / static_cast<S>(n) + static_cast<S>(eps));
}

/// One group of a row. `gate` and `normed` are room for a group each.
template <class T, class Weight, class S = vec::Sum<T>>
void norm_group(
    const T* y,
    const T* z,
    const Weight* weight,
    T* out,
    const GatedNormConfig& config,
    S* gate,
    S* normed) {
  const std::int64_t n = config.group_size;
  const bool gate_first = config.gate_first;
  vec::for_vectors<S>(n, [&](auto d, auto i) HWY_ATTR {
    const auto value = vec::load(d, y + i);
    const auto opening = vec::silu(d, vec::load(d, z + i));
    hn::StoreU(opening, d, gate + i);
    hn::StoreU(gate_first ? hn::Mul(value, opening) : value, d, normed + i);
  });
  const S scale = inverse_rms(normed, n, config.eps);
  vec::for_vectors<S>(n, [&](auto d, auto i) HWY_ATTR {
    const auto r = hn::Set(d, scale);
    const auto value = hn::Mul(hn::Mul(hn::LoadU(d, normed + i), r), vec::load(d, weight + i));
    vec::store(d, gate_first ? value : hn::Mul(value, hn::LoadU(d, gate + i)), out + i);
  });
}

/// Where the values of one group lie in the backward pass.
template <class T, class S>
struct GroupGradients {
  const T* dout;
  const T* y;
  const T* z;
  const S* weight;
  T* dy;
  T* dz;
  S* dweight;
  S* sigmoid;  ///< room for a group: sigmoid(z)
  S* value;    ///< room for a group: what is normed, v
  S* incoming; ///< room for a group: gradient of the weighted norm of v, e
};

/// With v = y * gate (gate first) or y, e = dout or dout * gate, and r the inverse root mean square
/// of v: dv = r (w e - v r^2 mean(w e v)), dweight += e v r. The gate's gradient is dv * y or
/// dout * w v r.
template <class T, class S>
void norm_group_backward(const GroupGradients<T, S>& group, const GatedNormConfig& config) {
  const std::int64_t n = config.group_size;
  const bool gate_first = config.gate_first;
  vec::for_vectors<S>(n, [&](auto d, auto i) HWY_ATTR {
    const auto before = vec::load(d, group.z + i);
    const auto s = vec::sigmoid(d, before);
    const auto gate = hn::Mul(before, s);
    const auto y = vec::load(d, group.y + i);
    const auto gradient = vec::load(d, group.dout + i);
    hn::StoreU(s, d, group.sigmoid + i);
    hn::StoreU(gate_first ? hn::Mul(y, gate) : y, d, group.value + i);
    hn::StoreU(gate_first ? gradient : hn::Mul(gradient, gate), d, group.incoming + i);
  });
  const S scale = inverse_rms(group.value, n, config.eps);
  const S product = vec::sum_vectors<S>(n, [&](auto d, auto i) HWY_ATTR {
    const auto weighted = hn::Mul(hn::LoadU(d, group.weight + i), hn::LoadU(d, group.incoming + i));
    return hn::Mul(weighted, hn::LoadU(d, group.value + i));
  });
  const S pull = scale * scale * product / static_cast<S>(n);
  vec::for_vectors<S>(n, [&](auto d, auto i) HWY_ATTR {
    const auto r = hn::Set(d, scale);
    const auto value = hn::LoadU(d, group.value + i);
    const auto incoming = hn::LoadU(d, group.incoming + i);
    const auto weight = hn::LoadU(d, group.weight + i);
    const auto along = hn::Mul(value, hn::Set(d, pull));
    const auto dvalue = hn::Mul(hn::MulSub(weight, incoming, along), r);
    const auto normed = hn::Mul(value, r);
    hn::StoreU(hn::MulAdd(incoming, normed, hn::LoadU(d, group.dweight + i)), d, group.dweight + i);
    const auto before = vec::load(d, group.z + i);
    const auto s = hn::LoadU(d, group.sigmoid + i);
    const auto dgate = gate_first ? hn::Mul(dvalue, vec::load(d, group.y + i))
                                  : hn::Mul(vec::load(d, group.dout + i), hn::Mul(weight, normed));
    vec::store(d, gate_first ? hn::Mul(dvalue, hn::Mul(before, s)) : dvalue, group.dy + i);
    vec::store(d, hn::Mul(dgate, vec::silu_slope(d, before, s)), group.dz + i);
  });
}

template <class T, class Weight>
void forward_rows_of(const GatedNormRows& task, void* out, std::int64_t begin, std::int64_t end) {
  using S = vec::Sum<T>;
  const auto group = task.config.group_size;
  const auto* weight = static_cast<const Weight*>(task.weight);
  std::vector<S> room(weight ? 2 * group : 0);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* y = static_cast<const T*>(task.y) + row * task.y_stride;
    const T* z = static_cast<const T*>(task.z) + row * task.z_stride;
    T* to = static_cast<T*>(out) + row * task.channels;
    if (!weight) {
      gate_row(y, z, to, task.channels);
      continue;
    }
    for (std::int64_t c = 0; c < task.channels; c += group) {
      norm_group(y + c, z + c, weight + c, to + c, task.config, room.data(), room.data() + group);
    }
  }
}

template <class T>
void backward_rows_of(
    const GatedNormRows& task,
    void* dweight,
    std::int64_t begin,
    std::int64_t end) {
  using S = vec::Sum<T>;
  const auto group = task.config.group_size;
  const auto* weight = static_cast<const S*>(task.weight);
  std::vector<S> room(weight ? 3 * group : 0);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* dout = static_cast<const T*>(task.dout) + row * task.dout_stride;
    const T* y = static_cast<const T*>(task.y) + row * task.y_stride;
    const T* z = static_cast<const T*>(task.z) + row * task.z_stride;
    T* dy = static_cast<T*>(task.dy) + row * task.channels;
    T* dz = static_cast<T*>(task.dz) + row * task.channels;
    if (!weight) {
      gate_row_backward(dout, y, z, dy, dz, task.channels);
      continue;
    }
    for (std::int64_t c = 0; c < task.channels; c += group) {
      const GroupGradients<T, S> gradients{
          .dout = dout + c,
          .y = y + c,
          .z = z + c,
          .weight = weight + c,
          .dy = dy + c,
          .dz = dz + c,
          .dweight = static_cast<S*>(dweight) + c,
          .sigmoid = room.data(),
          .value = room.data() + group,
          .incoming = room.data() + 2 * group};
      norm_group_backward(gradients, task.config);
    }
  }
}

void forward_rows(const GatedNormRows& task, void* out, std::int64_t begin, std::int64_t end) {
  vec::with_types(task.dtype, task.weight_dtype, [&](auto type, auto weight) {
    forward_rows_of<decltype(type), decltype(weight)>(task, out, begin, end);
  });
}

void backward_rows(const GatedNormRows& task, void* dweight, std::int64_t begin, std::int64_t end) {
  vec::with_type(
      task.dtype, [&](auto type) { backward_rows_of<decltype(type)>(task, dweight, begin, end); });
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

GatedNormRows make_rows(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const at::Tensor& weight_D,
    const GatedNormConfig& config) {
  return {
      .dtype = y_TD.scalar_type(),
      .weight_dtype = (weight_D.defined() ? weight_D : y_TD).scalar_type(),
      .y = y_TD.const_data_ptr(),
      .z = z_TD.const_data_ptr(),
      .weight = weight_D.defined() ? weight_D.const_data_ptr() : nullptr,
      .channels = y_TD.size(1),
      .y_stride = y_TD.stride(0),
      .z_stride = z_TD.stride(0),
      .config = config};
}

at::Tensor gated_norm_cpu(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  const GatedNormConfig config{eps, group_size, gate_first};
  check_gated_norm(y, z, weight, config);
  const at::Tensor y_TD = as_rows(y);
  const at::Tensor z_TD = as_rows(z);
  const at::Tensor weight_D = weight ? weight->contiguous() : at::Tensor();
  at::Tensor out = at::empty(y.sizes(), y.options());
  const GatedNormRows task = make_rows(y_TD, z_TD, weight_D, config);
  void* to = out.mutable_data_ptr();
  at::parallel_for(
      0, y_TD.size(0), rows_per_block(task.channels), [&](std::int64_t begin, std::int64_t end) {
        gated_norm_rows(task, to, begin, end);
      });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gated_norm_backward_cpu(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    double eps,
    std::int64_t group_size,
    bool gate_first) {
  const GatedNormConfig config{eps, group_size, gate_first};
  check_gated_norm(y, z, weight, config);
  check_same("dout", dout, "y", y);
  const at::Tensor y_TD = as_rows(y);
  const at::Tensor z_TD = as_rows(z);
  const at::Tensor dout_TD = as_rows(dout);
  const at::Tensor weight_D = weight ? weight->to(sum_dtype(y)).contiguous() : at::Tensor();
  at::Tensor dy = at::empty(y.sizes(), y.options());
  at::Tensor dz = at::empty(y.sizes(), y.options());
  GatedNormRows task = make_rows(y_TD, z_TD, weight_D, config);
  task.dout = dout_TD.const_data_ptr();
  task.dout_stride = dout_TD.stride(0);
  task.dy = dy.mutable_data_ptr();
  task.dz = dz.mutable_data_ptr();
  const std::int64_t num_rows = y_TD.size(0);
  const std::int64_t block = rows_per_block(task.channels);
  const std::int64_t num_blocks = (num_rows + block - 1) / block;
  const at::Tensor partials =
      at::zeros({num_blocks, weight ? task.channels : 0}, y.options().dtype(sum_dtype(y)));
  auto* sums = static_cast<char*>(partials.mutable_data_ptr());
  const auto bytes = static_cast<std::int64_t>(partials.element_size()) * task.channels;
  at::parallel_for(0, num_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(backward_rows)
      (task, weight ? sums + i * bytes : nullptr, i * block, std::min(num_rows, (i + 1) * block));
    }
  });
  const at::ScalarType dtype = (weight ? *weight : y).scalar_type();
  return {dy, dz, sum_over_blocks(partials).to(dtype, false, true)};
}

} // namespace

void gated_norm_rows(const GatedNormRows& task, void* out, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(forward_rows)(task, out, begin, end);
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("gated_norm", gated_norm_cpu);
  library.impl("gated_norm_backward", gated_norm_backward_cpu);
}

} // namespace baton::ops
#endif
