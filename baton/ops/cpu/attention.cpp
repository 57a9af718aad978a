// SPDX-License-Identifier: Apache-2.0
// Packed attention on the CPU: ATen's own kernel, one call for a sequence and a head. bf16 is
// widened first: without bf16 units ATen's bf16 gradient is ten times as slow, and its bf16
// products need not have the same bits on every thread.
#include "baton/ops/attention.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_cpu_dispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_cpu_dispatch.h>
#include <torch/library.h>

#include "baton/base/layout.h"
#include "baton/ops/cpu/each_item.h"

namespace baton::ops::cpu {
namespace {

/// A sequence that has queries.
struct Span {
  std::int64_t first_q;
  std::int64_t num_q;
  std::int64_t first_k;
  std::int64_t num_k;
};

std::vector<Span> make_spans(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    const LongestSequences& longest,
    bool causal) {
  const std::vector<std::int64_t> starts_q = checked_starts(starts_q_B1, q_THP.size(0));
  const std::vector<std::int64_t> starts_k = checked_starts(starts_k_B1, k_THP.size(0));
  std::vector<Span> spans;
  for (std::size_t b = 0; b + 1 < starts_q.size(); ++b) {
    const Span span{
        starts_q[b], starts_q[b + 1] - starts_q[b], starts_k[b], starts_k[b + 1] - starts_k[b]};
    TORCH_CHECK(
        !causal || span.num_q <= span.num_k,
        "a sequence must not have more queries than keys: sequence ",
        b,
        " has ",
        span.num_q,
        " and ",
        span.num_k);
    TORCH_CHECK(
        (longest.queries <= 0 || span.num_q <= longest.queries) &&
            (longest.keys <= 0 || span.num_k <= longest.keys),
        "no sequence may have more than ",
        longest.queries,
        " queries and ",
        longest.keys,
        " keys: sequence ",
        b,
        " has ",
        span.num_q,
        " and ",
        span.num_k);
    if (span.num_q > 0) {
      TORCH_CHECK(span.num_k > 0, "a sequence with queries must have keys: sequence ", b);
      spans.push_back(span);
    }
  }
  // The longest first, so that the last items to be taken are short.
  std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.num_q * a.num_k > b.num_q * b.num_k;
  });
  return spans;
}

/// The additive masks of the spans that continue a longer sequence; the other spans need none.
class Masks {
 public:
  Masks(const std::vector<Span>& spans, const at::TensorOptions& options) {
    for (const Span& span : spans) {
      if (span.num_q > 1 && span.num_q < span.num_k) {
        at::Tensor& mask = masks_[{span.num_q, span.num_k}];
        if (!mask.defined()) {
          mask =
              at::full({span.num_q, span.num_k}, -std::numeric_limits<double>::infinity(), options)
                  .triu_(span.num_k - span.num_q + 1);
        }
      }
    }
  }

  std::optional<at::Tensor> of(const Span& span) const {
    const auto found = masks_.find({span.num_q, span.num_k});
    return found == masks_.end() ? std::nullopt : std::optional<at::Tensor>(found->second);
  }

 private:
  std::map<std::pair<std::int64_t, std::int64_t>, at::Tensor> masks_;
};

/// Tokens and heads of x_THP as ATen wants them: [1, heads, tokens, P].
at::Tensor batch_of_one(
    const at::Tensor& x_THP,
    std::int64_t first,
    std::int64_t length,
    std::int64_t first_head,
    std::int64_t num_heads) {
  return x_THP.narrow(0, first, length)
      .narrow(1, first_head, num_heads)
      .transpose(0, 1)
      .unsqueeze(0);
}

at::Tensor with_contiguous_channels(const at::Tensor& x_THP) {
  return x_THP.stride(2) == 1 ? x_THP : x_THP.contiguous();
}

std::tuple<at::Tensor, at::Tensor> attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    std::int64_t longest_q,
    std::int64_t longest_k,
    bool causal) {
  check_attention(q_THP, k_THP, v_THP, starts_q_B1, starts_k_B1);
  const at::Tensor q = with_contiguous_channels(q_THP);
  const at::Tensor k = with_contiguous_channels(k_THP);
  const at::Tensor v = with_contiguous_channels(v_THP);
  const std::vector<Span> spans =
      make_spans(q, k, starts_q_B1, starts_k_B1, {longest_q, longest_k}, causal);
  const at::ScalarType dtype = at::toOpMathType(q.scalar_type());
  const Masks masks(causal ? spans : std::vector<Span>(), q.options().dtype(dtype));
  const std::int64_t num_heads = q.size(1);
  const std::int64_t group = num_heads / k.size(1);
  at::Tensor out_THP = at::empty(q.sizes(), q.options());
  at::Tensor log_sum_exp_HT = at::empty({num_heads, q.size(0)}, q.options().dtype(dtype));
  for_each_item(static_cast<std::int64_t>(spans.size()) * num_heads, [&](std::int64_t item) {
    const Span& span = spans[item / num_heads];
    const std::int64_t head = item % num_heads;
    const auto [out, log_sum_exp] = at::cpu::_scaled_dot_product_flash_attention_for_cpu(
        batch_of_one(q, span.first_q, span.num_q, head, 1).to(dtype),
        batch_of_one(k, span.first_k, span.num_k, head / group, 1).to(dtype),
        batch_of_one(v, span.first_k, span.num_k, head / group, 1).to(dtype),
        /*dropout_p=*/0.0,
        /*is_causal=*/causal && span.num_q == span.num_k,
        masks.of(span),
        scale);
    batch_of_one(out_THP, span.first_q, span.num_q, head, 1).copy_(out);
    log_sum_exp_HT[head].narrow(0, span.first_q, span.num_q).copy_(log_sum_exp.view(-1));
  });
  return {out_THP, log_sum_exp_HT};
}

/// One sequence and one key head, with all query heads that read it: ATen gives the gradients of
/// keys and values per query head, and their sum over the heads is taken here.
std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& dout_THP,
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& out_THP,
    const at::Tensor& log_sum_exp_HT,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    std::int64_t longest_q,
    std::int64_t longest_k,
    bool causal) {
  const at::Tensor dout = with_contiguous_channels(dout_THP);
  const at::Tensor q = with_contiguous_channels(q_THP);
  const at::Tensor k = with_contiguous_channels(k_THP);
  const at::Tensor v = with_contiguous_channels(v_THP);
  const at::Tensor out = with_contiguous_channels(out_THP);
  const std::vector<Span> spans =
      make_spans(q, k, starts_q_B1, starts_k_B1, {longest_q, longest_k}, causal);
  const at::ScalarType dtype = at::toOpMathType(q.scalar_type());
  const Masks masks(causal ? spans : std::vector<Span>(), q.options().dtype(dtype));
  const std::int64_t num_key_heads = k.size(1);
  const std::int64_t group = q.size(1) / num_key_heads;
  at::Tensor dq_THP = at::empty(q.sizes(), q.options());
  at::Tensor dk_THP = at::zeros(k.sizes(), k.options()); // keys without queries stay zero
  at::Tensor dv_THP = at::zeros(v.sizes(), v.options());
  for_each_item(static_cast<std::int64_t>(spans.size()) * num_key_heads, [&](std::int64_t item) {
    const Span& span = spans[item / num_key_heads];
    const std::int64_t key_head = item % num_key_heads;
    const std::int64_t head = key_head * group;
    const auto queries = [&](const at::Tensor& x) {
      return batch_of_one(x, span.first_q, span.num_q, head, group);
    };
    const auto keys = [&](const at::Tensor& x) {
      return batch_of_one(x, span.first_k, span.num_k, key_head, 1);
    };
    const auto expanded_keys = [&](const at::Tensor& x) {
      return keys(x).to(dtype).expand({1, group, span.num_k, x.size(2)});
    };
    const at::Tensor log_sum_exp =
        log_sum_exp_HT.narrow(0, head, group).narrow(1, span.first_q, span.num_q).unsqueeze(0);
    const auto [dq, dk, dv] = at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(
        queries(dout).to(dtype),
        queries(q).to(dtype),
        expanded_keys(k),
        expanded_keys(v),
        queries(out).to(dtype),
        log_sum_exp,
        /*dropout_p=*/0.0,
        /*is_causal=*/causal && span.num_q == span.num_k,
        masks.of(span),
        scale);
    queries(dq_THP).copy_(dq);
    keys(dk_THP).copy_(group == 1 ? dk : dk.sum(1, /*keepdim=*/true));
    keys(dv_THP).copy_(group == 1 ? dv : dv.sum(1, /*keepdim=*/true));
  });
  return {dq_THP, dk_THP, dv_THP};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("attention", &attention);
  library.impl("attention_backward", &attention_backward);
}

} // namespace baton::ops::cpu
