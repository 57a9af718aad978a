// SPDX-License-Identifier: Apache-2.0
// A Mamba-2 layer's step on the CPU: norm, product, convolution, scan, gate, product and addition
// as phases of one parallel region.
#include "baton/ops/mamba2_step.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cpu/causal_conv1d_step.h"
#include "baton/ops/cpu/gated_norm.h"
#include "baton/ops/cpu/layer_step.h"
#include "baton/ops/cpu/phased_step.h"
#include "baton/ops/cpu/ssd_step.h"
#include "baton/ops/slots.h"
#include "baton/ops/step_chain.h"

namespace baton::ops::cpu {
namespace {

/// A head's parameter in fp32; null where there is none.
const float* head_values(const std::optional<at::Tensor>& parameter) {
  return parameter ? parameter->const_data_ptr<float>() : nullptr;
}

/// Whether parameters lie as the kernels read them: those of heads in fp32, as models keep them.
bool takes(const Mamba2StepInputs& in) {
  const at::ScalarType dtype = in.hidden_BD.scalar_type();
  return LayerStep::takes(in.hidden_BD, in.frame) &&
         LayerStep::takes(dtype, in.in_weight_CD, in.in_bias_C) &&
         LayerStep::takes(dtype, in.out_weight_DI, in.out_bias_D) &&
         is_plain(in.A_log_H, at::kFloat) && is_plain(in.D, at::kFloat) &&
         is_plain(in.dt_bias_H, at::kFloat) && is_plain(in.conv_weight_CK, dtype) &&
         is_plain(in.conv_bias_C, dtype) && is_plain(in.norm_weight, dtype);
}

template <class T>
class Mamba2Step final : public PhasedStep {
 public:
  Mamba2Step(
      const Mamba2StepInputs& in,
      const Mamba2StepStates& states,
      const Mamba2StepSizes& sizes)
      : in_(in),
        states_(states),
        sizes_(sizes),
        layer_(room_, in.hidden_BD, in.frame),
        scan_(
            {.T = layer_.num_rows(),
             .H = sizes.heads,
             .P = sizes.inner / sizes.heads,
             .G = in.num_groups,
             .N = sizes.keys / in.num_groups,
             .B = layer_.num_rows()}),
        slots_(checked_slots()),
        projected_(room_, layer_.dtype(), layer_.num_rows(), in.in_weight_CD.size(0)),
        convolved_(room_, layer_.dtype(), layer_.num_rows(), sizes.channels),
        scanned_(room_, layer_.dtype(), layer_.num_rows(), sizes.inner),
        dt_(room_.take<float>(layer_.num_rows() * sizes.heads)),
        a_H_(room_.take<float>(sizes.heads)),
        scan_room_(
            room_.take<float>(layer_.num_rows() * sizes.heads * SsdStepRoom<float>::size(scan_))),
        first_(layer_.first_product(in_.in_weight_CD, in_.in_bias_C, projected_)),
        last_(layer_.last_product(in_.out_weight_DI, in_.out_bias_D)),
        scan_task_(scan_task()) {
    const float* log_a = in.A_log_H.const_data_ptr<float>();
    std::transform(log_a, log_a + sizes.heads, a_H_, [](float a) { return -std::exp(a); });
  }

  const at::Tensor& out() const { return layer_.out(); }

  std::vector<Phase> phases() override {
    const std::int64_t rows = layer_.num_rows();
    return {
        layer_.norm_and_product(first_),
        Phase{
            .count = rows * (conv_step_items(sizes_.channels) + 1),
            .work = [this](std::int64_t item, const void*) { convolve(item); }},
        Phase{
            .count = rows * sizes_.heads,
            .work = [this](std::int64_t item, const void*) { scan(item); }},
        layer_.product_and_add(last_, [this](void* rows) { gate(rows); })};
  }

 private:
  std::vector<std::int64_t> checked_slots() const {
    check_dense_slots(states_.conv_SCK);
    check_dense_slots(states_.ssm_SHPN);
    check_ssd_states(states_.ssm_SHPN, /*has_slots=*/true, scan_, at::kFloat);
    const at::Tensor& conv = states_.conv_SCK;
    TORCH_CHECK(
        conv.sizes() ==
                at::IntArrayRef({conv.size(0), sizes_.channels, in_.conv_weight_CK.size(1) - 1}) &&
            (conv.scalar_type() == at::kFloat || conv.scalar_type() == layer_.dtype()),
        "conv_states must be [S, ",
        sizes_.channels,
        ", K-1] in fp32 or ",
        layer_.dtype(),
        ", got ",
        conv.scalar_type(),
        " ",
        conv.sizes());
    check_slots("slots", states_.slots_B, layer_.num_rows());
    const std::vector<std::int32_t> slots =
        checked_distinct_slots(states_.slots_B, std::min(conv.size(0), states_.ssm_SHPN.size(0)));
    return {slots.begin(), slots.end()};
  }

  /// A block of the convolution's channels, or behind those the row's time steps.
  void convolve(std::int64_t item) const {
    const std::int64_t items = conv_step_items(sizes_.channels) + 1;
    const std::int64_t row = item / items;
    if (item % items == items - 1) {
      make_time_steps(row);
      return;
    }
    const at::Tensor& states = states_.conv_SCK;
    const std::int64_t slot = slots_[row];
    const bool remembers = slot >= 0 && states.numel() > 0; // a width of 1 remembers nothing
    const ConvStep step{
        .dtype = layer_.dtype(),
        .parameter_dtype = in_.conv_weight_CK.scalar_type(),
        .state_dtype = states.scalar_type(),
        .width = in_.conv_weight_CK.size(1),
        .channels = sizes_.channels,
        .silu = true,
        .x = projected_.at(row, sizes_.inner),
        .weight_CK = in_.conv_weight_CK.const_data_ptr(),
        .bias = in_.conv_bias_C ? in_.conv_bias_C->const_data_ptr() : nullptr,
        .state_CK = remembers ? static_cast<char*>(states.data_ptr()) +
                                    slot * states.stride(0) *
                                        static_cast<std::int64_t>(states.element_size())
                              : nullptr,
        .y = convolved_.at(row)};
    run_conv_step_item(step, item % items);
  }

  void make_time_steps(std::int64_t row) const {
    const auto* raw = static_cast<const T*>(projected_.at(row, sizes_.inner + sizes_.channels));
    float* steps = dt_ + row * sizes_.heads;
    if constexpr (std::is_same_v<T, float>) {
      std::copy_n(raw, sizes_.heads, steps);
    } else {
      widen_row(sizes_.heads, raw, steps);
    }
    const TimeStepRule rule{true, in_.dt_min, in_.dt_max};
    ssd_rows<float>().time_steps(rule, sizes_.heads, steps, head_values(in_.dt_bias_H), steps);
  }

  void scan(std::int64_t item) const {
    float* values = scan_room_ + item * SsdStepRoom<float>::size(scan_);
    run_ssd_step_item(scan_task_, SsdStepRoom<float>(scan_, values), item);
  }

  SsdStepTask<T, float> scan_task() const {
    const T* convolved = convolved_.template data<T>();
    return {
        .sizes = scan_,
        .x = {convolved, sizes_.channels},
        .b = {convolved + sizes_.inner, sizes_.channels},
        .c = {convolved + sizes_.inner + sizes_.keys, sizes_.channels},
        .dt_BH = dt_,
        .A_H = a_H_,
        .skip = head_values(in_.D),
        .skip_per_channel = in_.D && in_.D->dim() == 2,
        .states_SHPN = states_.ssm_SHPN.template mutable_data_ptr<float>(),
        .slot_stride = states_.ssm_SHPN.stride(0),
        .slots = slots_.data(),
        .y_BHP = scanned_.template data<T>()};
  }

  void gate(void* gated) const {
    const GatedNormRows rows{
        .dtype = layer_.dtype(),
        .weight_dtype = layer_.dtype(),
        .y = scanned_.data(),
        .z = projected_.data(),
        .weight = in_.norm_weight ? in_.norm_weight->const_data_ptr() : nullptr,
        .channels = sizes_.inner,
        .y_stride = sizes_.inner,
        .z_stride = projected_.channels(),
        .config = in_.norm};
    gated_norm_rows(rows, gated, 0, layer_.num_rows());
  }

  Mamba2StepInputs in_;
  Mamba2StepStates states_;
  Mamba2StepSizes sizes_;
  StepRoom room_;
  LayerStep layer_;
  SsdSizes scan_;
  std::vector<std::int64_t> slots_;
  StepRows projected_;
  StepRows convolved_;
  StepRows scanned_;
  float* dt_;
  float* a_H_;
  float* scan_room_;
  MatvecTask first_;
  MatvecTask last_;
  SsdStepTask<T, float> scan_task_;
};

template <class T>
at::Tensor
step_of(const Mamba2StepInputs& in, const Mamba2StepStates& states, const Mamba2StepSizes& sizes) {
  auto step = std::make_unique<Mamba2Step<T>>(in, states, sizes);
  at::Tensor out = step->out();
  run_step(std::move(step));
  return out;
}

/// What is not fp32 or bf16 throughout, or has too many rows, takes the operators one by one.
at::Tensor step(const Mamba2StepInputs& in, const Mamba2StepStates& states) {
  const Mamba2StepSizes sizes = checked_mamba2_step(in);
  if (!takes(in)) {
    StepChain::run();
    return mamba2_step_by_operators_(in, states);
  }
  return in.hidden_BD.scalar_type() == at::kFloat ? step_of<float>(in, states, sizes)
                                                  : step_of<c10::BFloat16>(in, states, sizes);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("mamba2_step_", &mamba2_step_kernel<step>);
}

} // namespace baton::ops::cpu
