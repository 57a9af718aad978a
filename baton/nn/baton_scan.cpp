// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/baton_scan.h"

#include <limits>
#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/ops/ssd.h"
#include "baton/ops/ssd_state.h"

namespace baton::nn {
namespace {

using parallel::Context;
using parallel::Direction;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

/// The rows of `sequences` in what the segments do to a state, with log decay -inf where a document
/// begins or ends inside, and nothing at all where `counts` is false.
parallel::SegmentStates segments_of(
    const ops::SsdStateOutput& found,
    const std::array<std::int64_t, 2>& sequences,
    const std::array<bool, 2>& passes,
    const std::array<bool, 2>& counts) {
  std::vector<at::Tensor> states;
  std::vector<at::Tensor> decays;
  for (std::size_t i = 0; i < 2; ++i) {
    const at::Tensor state_HPN = found.states_BHPN[sequences[i]];
    const at::Tensor decay_H = found.log_decay_BH[sequences[i]];
    states.push_back(counts[i] ? state_HPN : at::zeros_like(state_HPN));
    decays.push_back(
        passes[i] ? decay_H : at::full_like(decay_H, -std::numeric_limits<double>::infinity()));
  }
  return {at::stack(states), at::stack(decays)};
}

ops::SsdInputs inputs_of(AutogradContext* saved, const variable_list& tensors) {
  return {
      .x_THP = tensors[0],
      .dt_TH = tensors[1],
      .A_H = tensors[2],
      .B_TGN = tensors[3],
      .C_TGN = tensors[4],
      .starts = tensors[5],
      .D = given(tensors[6]),
      .time_step = {
          .bias_H = given(tensors[7]),
          .softplus = saved->saved_data["softplus"].toBool(),
          .min = saved->saved_data["min"].toDouble(),
          .max = saved->saved_data["max"].toDouble()}};
}

struct BatonScan : torch::autograd::Function<BatonScan> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& x,
      const at::Tensor& dt,
      const at::Tensor& A,
      const at::Tensor& B,
      const at::Tensor& C,
      const std::optional<at::Tensor>& D,
      const std::optional<at::Tensor>& bias,
      const ops::SsdInputs& inputs,
      const Context* context) {
    saved->saved_data["softplus"] = inputs.time_step.softplus;
    saved->saved_data["min"] = inputs.time_step.min;
    saved->saved_data["max"] = inputs.time_step.max;
    saved->saved_data["context"] = context->keep();
    const parallel::ContextPart& part = context->part();
    const at::Tensor entering_SHPN = context->pass_states(
        segments_of(ops::ssd_state(inputs), part.last_sequence, part.passes, {true, true}),
        Direction::kForward);
    const at::Tensor& slots_B = context->layout().initial_slots_B;
    saved->save_for_backward(
        {x,
         dt,
         A,
         B,
         C,
         inputs.starts,
         D.value_or(at::Tensor()),
         bias.value_or(at::Tensor()),
         entering_SHPN,
         slots_B});
    return ops::ssd(
               inputs,
               {.states_SHPN = entering_SHPN, .slots_B = slots_B},
               /*final_states=*/false)
        .y_THP;
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const variable_list tensors = saved->get_saved_variables();
    const ops::SsdInputs inputs = inputs_of(saved, tensors);
    const Context& context = Context::kept(saved->saved_data["context"]);
    const parallel::ContextPart& part = context.part();
    const at::Tensor& dy_THP = gradients[0];
    const ops::SsdStateOutput found = ops::ssd_state_grad(dy_THP, inputs);
    const at::Tensor leaving_SHPN = context.pass_states(
        segments_of(found, part.first_sequence, part.passes, part.continues), Direction::kBackward);
    at::Tensor dfinal_BHPN = at::zeros_like(found.states_BHPN);
    for (std::size_t i = 0; i < 2; ++i) {
      dfinal_BHPN[part.last_sequence[i]].copy_(leaving_SHPN[static_cast<std::int64_t>(i)]);
    }
    const ops::SsdGradients all = ops::ssd_backward(
        dy_THP, dfinal_BHPN, inputs, {.states_SHPN = tensors[8], .slots_B = tensors[9]});
    return {
        all.dx_THP,
        all.ddt_TH,
        all.dA_H,
        all.dB_TGN,
        all.dC_TGN,
        tensors[6].defined() ? all.dD : at::Tensor(),
        tensors[7].defined() ? all.ddt_bias_H : at::Tensor(),
        at::Tensor(),
        at::Tensor()};
  }
};

} // namespace

at::Tensor baton_scan(const ops::SsdInputs& inputs, const Context& context) {
  return BatonScan::apply(
      inputs.x_THP,
      inputs.dt_TH,
      inputs.A_H,
      inputs.B_TGN,
      inputs.C_TGN,
      inputs.D,
      inputs.time_step.bias_H,
      inputs,
      &context);
}

} // namespace baton::nn
