// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/baton_convolution.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/ops/causal_conv1d.h"

namespace baton::nn {
namespace {

using parallel::Context;
using parallel::RowRange;
using parallel::SegmentHeads;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

bool any(const SegmentHeads& heads) {
  return heads.rows[0].count + heads.rows[1].count > 0;
}

at::Tensor rows_of(const at::Tensor& x_TC, const SegmentHeads& heads) {
  return at::cat(
      {x_TC.narrow(0, heads.rows[0].first, heads.rows[0].count),
       x_TC.narrow(0, heads.rows[1].first, heads.rows[1].count)});
}

void write_rows(const at::Tensor& y_TC, const SegmentHeads& heads, const at::Tensor& rows) {
  std::int64_t begin = 0;
  for (const RowRange& range : heads.rows) {
    y_TC.narrow(0, range.first, range.count).copy_(rows.narrow(0, begin, range.count));
    begin += range.count;
  }
}

struct BatonConvolution : torch::autograd::Function<BatonConvolution> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& x_TC,
      const at::Tensor& weight_CK,
      const std::optional<at::Tensor>& bias_C,
      const Context* context) {
    const std::int64_t width = weight_CK.size(1);
    at::Tensor gathered;
    parallel::Pending tails = context->start_tails(x_TC, width, gathered);
    const at::Tensor y_TC =
        ops::causal_conv1d(x_TC, weight_CK, bias_C, context->layout().starts_B1, {}, true).y_TC;
    tails.wait();
    const at::Tensor tails_SCK = context->tails_from(gathered);
    // The few rows that see a tail, once more.
    const SegmentHeads& heads = context->heads(width);
    if (any(heads)) {
      const at::Tensor rows = ops::causal_conv1d(
                                  rows_of(x_TC, heads),
                                  weight_CK,
                                  bias_C,
                                  heads.starts_B1,
                                  {.initial_states = tails_SCK, .initial_slots_B = std::nullopt},
                                  true)
                                  .y_TC;
      write_rows(y_TC, heads, rows);
    }
    saved->saved_data["context"] = context->keep();
    saved->save_for_backward({x_TC, weight_CK, bias_C.value_or(at::Tensor()), tails_SCK});
    return y_TC;
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const variable_list tensors = saved->get_saved_variables();
    const at::Tensor& dy_TC = gradients[0];
    const at::Tensor& x_TC = tensors[0];
    const at::Tensor& weight_CK = tensors[1];
    const std::optional<at::Tensor> bias_C = given(tensors[2]);
    const at::Tensor& tails_SCK = tensors[3];
    const Context& context = Context::kept(saved->saved_data["context"]);
    const SegmentHeads& heads = context.heads(weight_CK.size(1));
    at::Tensor dtails_SCK = at::zeros_like(tails_SCK);
    if (any(heads)) {
      dtails_SCK = ops::causal_conv1d_backward(
                       rows_of(dy_TC, heads),
                       rows_of(x_TC, heads),
                       weight_CK,
                       bias_C,
                       heads.starts_B1,
                       {.initial_states = tails_SCK, .initial_slots_B = std::nullopt},
                       true)
                       .dinitial_states;
    }
    at::Tensor gathered;
    parallel::Pending sent = context.start_tail_gradients(dtails_SCK, gathered);
    const ops::CausalConv1dGradients all = ops::causal_conv1d_backward(
        dy_TC,
        x_TC,
        weight_CK,
        bias_C,
        context.layout().starts_B1,
        {.initial_states = tails_SCK, .initial_slots_B = context.layout().initial_slots_B},
        true);
    sent.wait();
    context.add_tail_gradients_(gathered, all.dx_TC);
    return {all.dx_TC, all.dweight_CK, all.dbias_C, at::Tensor()};
  }
};

} // namespace

at::Tensor baton_convolution(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const Context& context) {
  return BatonConvolution::apply(x_TC, weight_CK, bias_C, &context);
}

} // namespace baton::nn
