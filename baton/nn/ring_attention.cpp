// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/ring_attention.h"

#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/ops/attention.h"

namespace baton::nn {
namespace {

using parallel::Context;
using parallel::Pending;
using parallel::RowRange;
using parallel::UnmaskedPairs;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor select_rows(const at::Tensor& rows, const std::vector<RowRange>& ranges) {
  std::vector<at::Tensor> parts;
  parts.reserve(ranges.size());
  for (const RowRange& range : ranges) {
    parts.push_back(rows.narrow(0, range.first, range.count));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

/// rows[ranges] += values, which lie one after the other.
void add_rows(
    const at::Tensor& rows,
    const std::vector<RowRange>& ranges,
    const at::Tensor& values) {
  std::int64_t first = 0;
  for (const RowRange& range : ranges) {
    rows.narrow(0, range.first, range.count).add_(values.narrow(0, first, range.count));
    first += range.count;
  }
}

ops::LongestSequences longest(const UnmaskedPairs& pairs) {
  return {pairs.longest_q, pairs.longest_k};
}

ops::LongestSequences longest(const Context& context) {
  return {context.layout().longest, context.layout().longest};
}

/// Keys and values, which travel as one [T, Hk, 2 P].
std::pair<at::Tensor, at::Tensor> keys_and_values(const at::Tensor& both) {
  const std::int64_t channels = both.size(2) / 2;
  return {both.narrow(2, 0, channels), both.narrow(2, channels, channels)};
}

/// Calls work(holder, keys and values of holder) for all ranks' keys, this rank's first, while the
/// next ones are on their way.
template <class Work>
void go_round(const Context& context, at::Tensor both, const Work& work) {
  const int ranks = context.group().size();
  for (int step = 0; step < ranks; ++step) {
    const int holder = context.ring_holder(step);
    at::Tensor next;
    Pending pending;
    if (step + 1 < ranks) {
      pending = context.start_ring(both, holder, next);
    }
    work(holder, both);
    pending.wait();
    both = next;
  }
}

/// What queries have seen so far: out in fp32 (fp64), and the log of their sums.
struct Seen {
  at::Tensor out_THP;
  at::Tensor log_sum_HT;

  /// Rows `range` see more: `out` and `log_sum` of those rows.
  void add(const RowRange& range, const at::Tensor& out, const at::Tensor& log_sum) {
    const at::Tensor old_sum = log_sum_HT.narrow(1, range.first, range.count);
    const at::Tensor old_out = out_THP.narrow(0, range.first, range.count);
    const at::Tensor all = at::logaddexp(old_sum, log_sum);
    const auto share = [&](const at::Tensor& part) { return (part - all).exp().t().unsqueeze(2); };
    old_out.mul_(share(old_sum)).add_(out * share(log_sum));
    old_sum.copy_(all);
  }
};

struct RingAttention : torch::autograd::Function<RingAttention> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& q_THP,
      const at::Tensor& k_THP,
      const at::Tensor& v_THP,
      double scale,
      const Context* context) {
    const at::Tensor& starts = context->layout().starts_B1;
    // Within each piece of a document the mask is the usual one.
    const ops::AttentionOutput own =
        ops::attention(q_THP, k_THP, v_THP, starts, starts, scale, longest(*context));
    Seen seen{own.out_THP.to(at::toOpMathType(q_THP.scalar_type())), own.log_sum_exp_HT.clone()};
    const auto look = [&](int holder, const at::Tensor& both) {
      const UnmaskedPairs& pairs = context->pairs(holder);
      if (pairs.queries.empty()) {
        return;
      }
      const auto [keys, values] = keys_and_values(select_rows(both, pairs.keys));
      const ops::AttentionOutput found = ops::attention(
          select_rows(q_THP, pairs.queries),
          keys,
          values,
          pairs.starts_q_B1,
          pairs.starts_k_B1,
          scale,
          longest(pairs),
          /*causal=*/false);
      std::int64_t first = 0;
      for (const RowRange& range : pairs.queries) {
        seen.add(
            range,
            found.out_THP.narrow(0, first, range.count),
            found.log_sum_exp_HT.narrow(1, first, range.count));
        first += range.count;
      }
    };
    go_round(*context, at::cat({k_THP, v_THP}, 2), look);
    const at::Tensor out_THP = seen.out_THP.to(q_THP.scalar_type());
    saved->save_for_backward({q_THP, k_THP, v_THP, out_THP, seen.log_sum_HT});
    saved->saved_data["scale"] = scale;
    saved->saved_data["context"] = context->keep();
    return out_THP;
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const variable_list kept = saved->get_saved_variables();
    const at::Tensor &q_THP = kept[0], &k_THP = kept[1], &v_THP = kept[2];
    const double scale = saved->saved_data["scale"].toDouble();
    const Context& context = Context::kept(saved->saved_data["context"]);
    const at::Tensor& starts = context.layout().starts_B1;
    const at::ScalarType sums = at::toOpMathType(q_THP.scalar_type());
    const ops::AttentionGradients own = ops::attention_backward(
        gradients[0],
        q_THP,
        k_THP,
        v_THP,
        {kept[3], kept[4]},
        starts,
        starts,
        scale,
        longest(context));
    const at::Tensor dq_THP = own.dq_THP.to(sums);
    at::Tensor dboth = at::cat({own.dk_THP, own.dv_THP}, 2).to(sums);
    const auto look = [&](int holder, const at::Tensor& both) {
      const UnmaskedPairs& pairs = context.pairs(holder);
      if (!pairs.queries.empty()) {
        const auto [keys, values] = keys_and_values(select_rows(both, pairs.keys));
        const ops::AttentionGradients found = ops::attention_backward(
            select_rows(gradients[0], pairs.queries),
            select_rows(q_THP, pairs.queries),
            keys,
            values,
            {select_rows(kept[3], pairs.queries),
             select_rows(kept[4].t(), pairs.queries).t().contiguous()},
            pairs.starts_q_B1,
            pairs.starts_k_B1,
            scale,
            longest(pairs),
            /*causal=*/false);
        add_rows(dq_THP, pairs.queries, found.dq_THP);
        add_rows(dboth, pairs.keys, at::cat({found.dk_THP, found.dv_THP}, 2));
      }
      // Gradients follow their keys, and go one step further: home.
      at::Tensor next;
      context.start_ring(dboth, holder, next).wait();
      dboth = next;
    };
    go_round(context, at::cat({k_THP, v_THP}, 2), look);
    const auto [dk_THP, dv_THP] = keys_and_values(dboth.to(q_THP.scalar_type()));
    return {dq_THP.to(q_THP.scalar_type()), dk_THP, dv_THP, at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor ring_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    double scale,
    const Context& context) {
  return RingAttention::apply(q_THP, k_THP, v_THP, scale, &context);
}

} // namespace baton::nn
