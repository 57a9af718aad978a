// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/attention.h"

#include <tuple>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<at::Tensor, at::Tensor>;
using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Pair call_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    std::int64_t longest_q,
    std::int64_t longest_k,
    bool causal) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::attention", "")
                             .typed<Pair(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 double,
                                 std::int64_t,
                                 std::int64_t,
                                 bool)>();
  return op.call(
      q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1, scale, longest_q, longest_k, causal);
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static variable_list forward(
      AutogradContext* context,
      const at::Tensor& q_THP,
      const at::Tensor& k_THP,
      const at::Tensor& v_THP,
      const at::Tensor& starts_q_B1,
      const at::Tensor& starts_k_B1,
      double scale,
      std::int64_t longest_q,
      std::int64_t longest_k,
      bool causal) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [out_THP, log_sum_exp_HT] = call_attention(
        q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1, scale, longest_q, longest_k, causal);
    context->save_for_backward(
        {q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1, out_THP, log_sum_exp_HT});
    context->saved_data["scale"] = scale;
    context->saved_data["longest_q"] = longest_q;
    context->saved_data["longest_k"] = longest_k;
    context->saved_data["causal"] = causal;
    context->mark_non_differentiable({log_sum_exp_HT});
    return {out_THP, log_sum_exp_HT};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    variable_list inputs(9);
    if (!gradients[0].defined()) {
      return inputs;
    }
    const variable_list saved = context->get_saved_variables();
    AttentionGradients found = attention_backward(
        gradients[0],
        saved[0],
        saved[1],
        saved[2],
        {saved[5], saved[6]},
        saved[3],
        saved[4],
        context->saved_data["scale"].toDouble(),
        {context->saved_data["longest_q"].toInt(), context->saved_data["longest_k"].toInt()},
        context->saved_data["causal"].toBool());
    inputs[0] = std::move(found.dq_THP);
    inputs[1] = std::move(found.dk_THP);
    inputs[2] = std::move(found.dv_THP);
    return inputs;
  }
};

Pair attention_autograd(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    std::int64_t longest_q,
    std::int64_t longest_k,
    bool causal) {
  const variable_list outputs = AttentionFunction::apply(
      q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1, scale, longest_q, longest_k, causal);
  return {outputs[0], outputs[1]};
}

Pair attention_meta(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double /*scale*/,
    std::int64_t /*longest_q*/,
    std::int64_t /*longest_k*/,
    bool /*causal*/) {
  check_attention(q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1);
  const auto statistics = at::toOpMathType(q_THP.scalar_type());
  return {
      at::empty_symint(q_THP.sym_sizes(), q_THP.options()),
      at::empty_symint({q_THP.sym_size(1), q_THP.sym_size(0)}, q_THP.options().dtype(statistics))};
}

Triple attention_backward_meta(
    const at::Tensor& /*dout_THP*/,
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& /*out_THP*/,
    const at::Tensor& /*log_sum_exp_HT*/,
    const at::Tensor& /*starts_q_B1*/,
    const at::Tensor& /*starts_k_B1*/,
    double /*scale*/,
    std::int64_t /*longest_q*/,
    std::int64_t /*longest_k*/,
    bool /*causal*/) {
  return {
      at::empty_symint(q_THP.sym_sizes(), q_THP.options()),
      at::empty_symint(k_THP.sym_sizes(), k_THP.options()),
      at::empty_symint(v_THP.sym_sizes(), v_THP.options())};
}

} // namespace

void check_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1) {
  TORCH_CHECK(
      q_THP.dim() == 3 && k_THP.dim() == 3 && k_THP.sym_sizes() == v_THP.sym_sizes() &&
          q_THP.sym_size(2) == k_THP.sym_size(2),
      "attention takes q [Tq, Hq, P] and k, v [Tk, Hk, P], got ",
      q_THP.sym_sizes(),
      ", ",
      k_THP.sym_sizes(),
      ", ",
      v_THP.sym_sizes());
  TORCH_CHECK(
      k_THP.sym_size(1) > 0 && q_THP.sym_size(1) % k_THP.sym_size(1) == 0,
      "query heads must be a multiple of key heads: ",
      q_THP.sym_size(1),
      " vs ",
      k_THP.sym_size(1));
  TORCH_CHECK(
      q_THP.scalar_type() == k_THP.scalar_type() && q_THP.scalar_type() == v_THP.scalar_type(),
      "attention takes one dtype, got q ",
      q_THP.scalar_type(),
      ", k ",
      k_THP.scalar_type(),
      ", v ",
      v_THP.scalar_type());
  TORCH_CHECK(
      starts_q_B1.sym_sizes() == starts_k_B1.sym_sizes(),
      "queries and keys must have as many sequences, got starts of ",
      starts_q_B1.sym_sizes(),
      " and ",
      starts_k_B1.sym_sizes());
}

AttentionOutput attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    const LongestSequences& longest,
    bool causal) {
  auto [out_THP, log_sum_exp_HT] = call_attention(
      q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1, scale, longest.queries, longest.keys, causal);
  return {std::move(out_THP), std::move(log_sum_exp_HT)};
}

AttentionGradients attention_backward(
    const at::Tensor& dout_THP,
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const AttentionOutput& output,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    const LongestSequences& longest,
    bool causal) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::attention_backward", "")
                             .typed<Triple(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 double,
                                 std::int64_t,
                                 std::int64_t,
                                 bool)>();
  auto [dq_THP, dk_THP, dv_THP] = op.call(
      dout_THP,
      q_THP,
      k_THP,
      v_THP,
      output.out_THP,
      output.log_sum_exp_HT,
      starts_q_B1,
      starts_k_B1,
      scale,
      longest.queries,
      longest.keys,
      causal);
  return {std::move(dq_THP), std::move(dk_THP), std::move(dv_THP)};
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor starts_q, Tensor starts_k, float scale, "
      "int longest_q=0, int longest_k=0, bool causal=True) "
      "-> (Tensor out, Tensor log_sum_exp)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, "
      "Tensor log_sum_exp, Tensor starts_q, Tensor starts_k, float scale, int longest_q=0, "
      "int longest_k=0, bool causal=True) "
      "-> (Tensor dq, Tensor dk, Tensor dv)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("attention", &attention_autograd);
  library.impl(
      "attention_backward", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("attention", &attention_meta);
  library.impl("attention_backward", &attention_backward_meta);
}

} // namespace baton::ops
