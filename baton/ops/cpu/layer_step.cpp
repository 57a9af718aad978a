// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/layer_step.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>

#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/cpu/rms_norm.h"
#include "baton/ops/linear.h"
#include "baton/ops/rms_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/layer_step.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

#ifndef BATON_OPS_CPU_LAYER_STEP_ONCE
#define BATON_OPS_CPU_LAYER_STEP_ONCE
namespace baton::ops::cpu {

/// out = hidden + scale update, of neighbouring values.
struct ScaledSum {
  c10::ScalarType dtype;
  const void* hidden;
  const void* update;
  double scale;
  void* out;
  std::int64_t count;
};

} // namespace baton::ops::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace baton::ops::cpu {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

void add_scaled(const ScaledSum& task) {
  vec::with_type(task.dtype, [&](auto type) {
    using T = decltype(type);
    using S = vec::Sum<T>;
    const T* hidden = static_cast<const T*>(task.hidden);
    const T* update = static_cast<const T*>(task.update);
    T* out = static_cast<T*>(task.out);
    vec::for_vectors<S>(task.count, [&](auto d, auto i) HWY_ATTR {
      const auto scale = hn::Set(d, static_cast<S>(task.scale));
      const auto sum = hn::MulAdd(scale, vec::load(d, update + i), vec::load(d, hidden + i));
      vec::store(d, sum, out + i);
    });
  });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops::cpu {
namespace {

HWY_EXPORT(add_scaled);

bool is_matvec_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16;
}

constexpr std::int64_t kBlockBytes = 64 << 10; // what a step of a common layer takes in all
constexpr std::int64_t kAlignment = 64;

/// Rows of a product, and behind those of bf16 what the product reads.
std::int64_t row_bytes(const MatvecTask& product) {
  const std::int64_t bytes =
      product.num_rows * product.depth * static_cast<std::int64_t>(c10::elementSize(product.dtype));
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// `make_rows` writes rows [B, D], which every worker then places for itself.
Phase product_phase(const MatvecTask& product, std::function<void(void* rows)> make_rows) {
  const auto placed_bytes =
      product.num_rows * product.depth * static_cast<std::int64_t>(sizeof(float));
  return {
      .count = matvec_items(product),
      .work =
          [&product](std::int64_t item, const void* scratch) {
            run_matvec_item(product, product_rows(product, scratch), item);
          },
      .prepare =
          [&product, make_rows = std::move(make_rows)](void* scratch) {
            make_rows(scratch);
            auto* room = reinterpret_cast<float*>(static_cast<char*>(scratch) + row_bytes(product));
            place_rows(product.dtype, scratch, product.num_rows, product.depth, room);
          },
      .scratch_bytes = row_bytes(product) + placed_bytes};
}

} // namespace

void* StepRoom::take_bytes(std::int64_t bytes) {
  const std::int64_t whole = (bytes / kAlignment + 2) * kAlignment;
  if (whole > left_) {
    left_ = std::max(whole, kBlockBytes);
    blocks_.push_back(hwy::AllocateAligned<char>(static_cast<std::size_t>(left_)));
    next_ = blocks_.back().get();
  }
  void* taken = next_;
  next_ += whole;
  left_ -= whole;
  return taken;
}

StepRows::StepRows(
    StepRoom& room,
    at::ScalarType dtype,
    std::int64_t num_rows,
    std::int64_t channels)
    : channels_(channels),
      value_bytes_(static_cast<std::int64_t>(c10::elementSize(dtype))),
      bytes_(room.take<char>(num_rows * channels * value_bytes_)) {}

bool is_plain(const std::optional<at::Tensor>& parameter, at::ScalarType dtype) {
  return !parameter || (parameter->scalar_type() == dtype && parameter->is_contiguous());
}

LayerStep::LayerStep(StepRoom& room, const at::Tensor& hidden_BD, const LayerFrame& frame)
    : hidden_BD_(hidden_BD),
      norm_weight_D_(frame.norm_weight_D.contiguous()),
      norm_eps_(frame.norm_eps),
      scale_(frame.scale),
      out_BD_(at::empty(hidden_BD.sizes(), hidden_BD.options())),
      update_(room, hidden_BD.scalar_type(), hidden_BD.size(0), hidden_BD.size(1)) {
  check_rms_norm(hidden_BD, frame.norm_weight_D, frame.norm_eps);
}

bool LayerStep::takes(const at::Tensor& hidden_BD, const LayerFrame& frame) {
  return is_matvec_dtype(hidden_BD.scalar_type()) && hidden_BD.is_contiguous() &&
         frame.norm_weight_D.scalar_type() == hidden_BD.scalar_type() && hidden_BD.numel() > 0 &&
         hidden_BD.size(0) <= kMatvecRows;
}

bool LayerStep::takes(
    at::ScalarType dtype,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  const auto plain = [&](const at::Tensor& tensor) {
    return tensor.scalar_type() == dtype && tensor.numel() > 0 && tensor.stride(-1) == 1;
  };
  return plain(weight_FD) && (!bias_F || plain(*bias_F));
}

void LayerStep::norm(void* rows) const {
  const RmsNormRows task{
      .dtype = dtype(),
      .weight_dtype = norm_weight_D_.scalar_type(),
      .x = hidden_BD_.const_data_ptr(),
      .weight = norm_weight_D_.const_data_ptr(),
      .dy = nullptr,
      .out = rows,
      .channels = hidden_BD_.size(1),
      .x_stride = hidden_BD_.size(1),
      .dy_stride = 0,
      .eps = norm_eps_};
  rms_norm_rows(task, 0, num_rows());
}

MatvecTask LayerStep::first_product(
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F,
    const StepRows& y) const {
  return {
      .dtype = dtype(),
      .num_rows = num_rows(),
      .depth = weight_FD.size(1),
      .weight_FD = weight_FD.const_data_ptr(),
      .weight_stride = weight_FD.stride(0),
      .bias_F = bias_F ? bias_F->const_data_ptr() : nullptr,
      .y_BF = y.data(),
      .num_outputs = weight_FD.size(0)};
}

Phase LayerStep::norm_and_product(const MatvecTask& product) const {
  return product_phase(product, [this](void* rows) { norm(rows); });
}

MatvecTask LayerStep::last_product(
    const at::Tensor& weight_DF,
    const std::optional<at::Tensor>& bias_D) const {
  return first_product(weight_DF, bias_D, update_);
}

Phase LayerStep::product_and_add(
    const MatvecTask& product,
    std::function<void(void* rows)> make_rows) const {
  Phase phase = product_phase(product, std::move(make_rows));
  phase.work = [this, &product](std::int64_t item, const void* scratch) {
    run_add(product, product_rows(product, scratch), item);
  };
  return phase;
}

void LayerStep::run_add(const MatvecTask& product, const float* x_BD, std::int64_t item) const {
  const auto [first, last] = run_matvec_item(product, x_BD, item);
  const std::int64_t width = hidden_BD_.size(1);
  const auto value_bytes = static_cast<std::int64_t>(c10::elementSize(dtype()));
  const auto* hidden = static_cast<const char*>(hidden_BD_.const_data_ptr());
  auto* out = static_cast<char*>(out_BD_.mutable_data_ptr());
  for (std::int64_t row = 0; row < num_rows(); ++row) {
    const std::int64_t offset = (row * width + first) * value_bytes;
    HWY_DYNAMIC_DISPATCH(add_scaled)
    ({.dtype = dtype(),
      .hidden = hidden + offset,
      .update = update_.at(row, first),
      .scale = scale_,
      .out = out + offset,
      .count = last - first});
  }
}

const float* product_rows(const MatvecTask& product, const void* scratch) {
  const auto* rows = static_cast<const char*>(scratch);
  return reinterpret_cast<const float*>(
      product.dtype == at::kFloat ? rows : rows + row_bytes(product));
}

} // namespace baton::ops::cpu
#endif
