// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/gathered_attention.h"

#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/ops/attention.h"

namespace baton::nn {
namespace {

using parallel::Context;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// One segment's queries with what they see.
struct Segment {
  const parallel::SegmentKeys& keys;
  std::int64_t first_row;
  std::int64_t rows;

  at::Tensor queries(const at::Tensor& of_rank) const { return of_rank.narrow(0, first_row, rows); }
  at::Tensor seen(const at::Tensor& of_stream) const {
    return of_stream.narrow(0, keys.first_key, keys.num_keys);
  }
  ops::LongestSequences longest() const { return {keys.longest_q, keys.longest_k}; }
};

std::vector<Segment> segments_of(const Context& context) {
  const auto& lengths = context.part().lengths;
  std::vector<Segment> segments;
  for (std::size_t i = 0; i < 2; ++i) {
    if (lengths[i] > 0) {
      segments.push_back({context.keys(i), i == 0 ? 0 : lengths[0], lengths[i]});
    }
  }
  return segments;
}

/// Keys and values of the whole stream, from one message.
struct Gathered {
  Gathered(const Context& context, const at::Tensor& k_THP, const at::Tensor& v_THP)
      : both(context.gather_rows(at::cat({k_THP, v_THP}, 2))),
        k_THP(both.narrow(2, 0, k_THP.size(2))),
        v_THP(both.narrow(2, k_THP.size(2), v_THP.size(2))) {}

  at::Tensor both;
  at::Tensor k_THP;
  at::Tensor v_THP;
};

struct GatheredAttention : torch::autograd::Function<GatheredAttention> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& q_THP,
      const at::Tensor& k_THP,
      const at::Tensor& v_THP,
      double scale,
      const Context* context) {
    const Gathered all(*context, k_THP, v_THP);
    std::vector<at::Tensor> outs{q_THP.narrow(0, 0, 0)};
    std::vector<at::Tensor> sums;
    for (const Segment& segment : segments_of(*context)) {
      const ops::AttentionOutput output = ops::attention(
          segment.queries(q_THP),
          segment.seen(all.k_THP),
          segment.seen(all.v_THP),
          segment.keys.starts_q_B1,
          segment.keys.starts_k_B1,
          scale,
          segment.longest());
      outs.push_back(output.out_THP);
      sums.push_back(output.log_sum_exp_HT);
    }
    const at::Tensor out_THP = at::cat(outs);
    variable_list kept{q_THP, k_THP, v_THP, out_THP};
    kept.insert(kept.end(), sums.begin(), sums.end());
    saved->save_for_backward(kept);
    saved->saved_data["scale"] = scale;
    saved->saved_data["context"] = context->keep();
    return out_THP;
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const variable_list kept = saved->get_saved_variables();
    const at::Tensor& q_THP = kept[0];
    const Context& context = Context::kept(saved->saved_data["context"]);
    const Gathered all(context, kept[1], kept[2]);
    const at::ScalarType dtype = q_THP.scalar_type();
    const at::Tensor dboth =
        at::zeros(all.both.sizes(), all.both.options().dtype(at::toOpMathType(dtype)));
    const std::int64_t channels = all.k_THP.size(2);
    std::vector<at::Tensor> dqs{q_THP.narrow(0, 0, 0)};
    std::size_t next = 4;
    for (const Segment& segment : segments_of(context)) {
      const ops::AttentionGradients found = ops::attention_backward(
          segment.queries(gradients[0]),
          segment.queries(q_THP),
          segment.seen(all.k_THP),
          segment.seen(all.v_THP),
          {segment.queries(kept[3]), kept[next++]},
          segment.keys.starts_q_B1,
          segment.keys.starts_k_B1,
          saved->saved_data["scale"].toDouble(),
          segment.longest());
      dqs.push_back(found.dq_THP);
      const at::Tensor dseen = segment.seen(dboth);
      dseen.narrow(2, 0, channels).add_(found.dk_THP);
      dseen.narrow(2, channels, channels).add_(found.dv_THP);
    }
    const std::vector<at::Tensor> own =
        context.scatter_rows(dboth.to(dtype)).split_with_sizes({channels, channels}, 2);
    return {at::cat(dqs), own[0], own[1], at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor gathered_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    double scale,
    const Context& context) {
  return GatheredAttention::apply(q_THP, k_THP, v_THP, scale, &context);
}

} // namespace baton::nn
