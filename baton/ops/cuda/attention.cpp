// SPDX-License-Identifier: Apache-2.0
// Packed attention on a GPU by ATen's kernels: flash attention for bf16, memory-efficient attention
// for fp32. Both take packed sequences as they are.
#include "baton/ops/attention.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/heads.h"

namespace baton::ops::cuda {
namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;
using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

constexpr std::int64_t kPackBytes = 16; // which rows of heads must begin at
constexpr std::int64_t kMostFlashChannels = 256;
constexpr std::int64_t kMostSequences = 65535;     // a dimension of the kernels' grids
constexpr std::int64_t kStatisticsStep = 32;       // queries that the efficient kernels pad to
constexpr std::int64_t kCausalFromBottomRight = 2; // sdp::CustomMaskType, where 0 is none

bool by_flash(const at::Tensor& q_THP) {
  return q_THP.scalar_type() == at::kBFloat16;
}

/// Sequences, and their longest queries and keys, or a bound: it sizes grids, whose blocks beyond a
/// sequence's end return at once.
struct Sequences {
  at::Tensor starts_q_B1;
  at::Tensor starts_k_B1;
  std::int64_t longest_q;
  std::int64_t longest_k;
  double scale;
  bool causal;

  std::int64_t count() const { return starts_q_B1.size(0) - 1; }
};

std::int64_t bound(std::int64_t longest, std::int64_t tokens) {
  return longest > 0 ? std::min(longest, tokens) : tokens;
}

void check_inputs(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const Sequences& sequences) {
  check_attention(q_THP, k_THP, v_THP, sequences.starts_q_B1, sequences.starts_k_B1);
  TORCH_CHECK_NOT_IMPLEMENTED(
      by_flash(q_THP) || q_THP.scalar_type() == at::kFloat,
      "attention on a GPU takes float32 or bfloat16, got ",
      q_THP.scalar_type());
  TORCH_CHECK(
      !by_flash(q_THP) || q_THP.size(2) <= kMostFlashChannels,
      "attention on a GPU takes bfloat16 heads of at most ",
      kMostFlashChannels,
      " channels, got ",
      q_THP.size(2));
  TORCH_CHECK(
      sequences.count() <= kMostSequences,
      "attention on a GPU takes at most ",
      kMostSequences,
      " sequences, got ",
      sequences.count());
}

/// Heads as the kernels take them: a copy with channels padded to whole packs by zeros, which
/// change neither scores nor results, or one that lies evenly, only where that is needed.
at::Tensor with_whole_packs(const at::Tensor& x_THP) {
  const std::int64_t pack = kPackBytes / x_THP.element_size();
  if (const std::int64_t beyond = x_THP.size(2) % pack; beyond != 0) {
    return at::constant_pad_nd(x_THP, {0, pack - beyond});
  }
  return heads_fit(x_THP, pack) ? x_THP : x_THP.clone(at::MemoryFormat::Contiguous);
}

/// The first channels, as they are where there are no others.
at::Tensor without_padding(const at::Tensor& x_THP, std::int64_t channels) {
  return x_THP.narrow(2, 0, channels).contiguous();
}

/// Key heads repeated for each query head that reads them; a view where strides allow it.
at::Tensor for_each_query_head(const at::Tensor& x_THP, std::int64_t num_heads) {
  const std::int64_t group = num_heads / x_THP.size(1);
  return x_THP.unsqueeze(2)
      .expand({x_THP.size(0), x_THP.size(1), group, x_THP.size(2)})
      .reshape({x_THP.size(0), num_heads, x_THP.size(2)});
}

/// [B, H, L] as the efficient kernel leaves it -> [H, T].
at::Tensor packed_statistics(
    const at::Tensor& padded_BHL,
    const at::Tensor& starts_B1,
    std::int64_t num_tokens) {
  const std::int64_t count = starts_B1.size(0) - 1;
  const at::Tensor tokens_T = at::arange(num_tokens, starts_B1.options());
  const at::Tensor sequence_T =
      at::searchsorted(starts_B1.narrow(0, 1, count), tokens_T, /*out_int32=*/false, /*right=*/true)
          .clamp_max(count - 1);
  const at::Tensor offset_T = (tokens_T - starts_B1.index_select(0, sequence_T)).to(at::kLong);
  return at::index(padded_BHL, {sequence_T, std::nullopt, offset_T}).t().contiguous();
}

/// The way back, with infinity, whose exponential's inverse is 0, behind the end of each sequence.
at::Tensor padded_statistics(
    const at::Tensor& log_sum_exp_HT,
    const at::Tensor& starts_B1,
    std::int64_t longest) {
  const std::int64_t count = starts_B1.size(0) - 1;
  const std::int64_t length = (longest + kStatisticsStep - 1) / kStatisticsStep * kStatisticsStep;
  const at::Tensor tokens_BL =
      starts_B1.narrow(0, 0, count).unsqueeze(1) + at::arange(length, starts_B1.options());
  const at::Tensor inside_BL = tokens_BL.lt(starts_B1.narrow(0, 1, count).unsqueeze(1));
  const at::Tensor values_BHL =
      log_sum_exp_HT.index_select(1, tokens_BL.clamp_max(log_sum_exp_HT.size(1) - 1).flatten())
          .view({log_sum_exp_HT.size(0), count, length})
          .transpose(0, 1);
  return at::where(inside_BL.unsqueeze(1), values_BHL, std::numeric_limits<float>::infinity())
      .contiguous();
}

Pair flash_forward(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const Sequences& sequences) {
  // With a longest query of one, ATen would take T for the number of sequences.
  const auto [out, log_sum_exp, rng_state, unused, mask] = at::_flash_attention_forward(
      q_THP,
      k_THP,
      v_THP,
      sequences.starts_q_B1,
      sequences.starts_k_B1,
      std::max<std::int64_t>(2, sequences.longest_q),
      sequences.longest_k,
      /*dropout_p=*/0.0,
      sequences.causal,
      /*return_debug_mask=*/false,
      sequences.scale);
  return {out, log_sum_exp};
}

Triple flash_backward(
    const at::Tensor& dout_THP,
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& out_THP,
    const at::Tensor& log_sum_exp_HT,
    const Sequences& sequences) {
  const at::Tensor no_dropout = at::empty({0}, q_THP.options().dtype(at::kLong));
  return at::_flash_attention_backward(
      dout_THP,
      q_THP,
      k_THP,
      v_THP,
      out_THP,
      log_sum_exp_HT.contiguous(),
      sequences.starts_q_B1,
      sequences.starts_k_B1,
      sequences.longest_q,
      sequences.longest_k,
      /*dropout_p=*/0.0,
      sequences.causal,
      no_dropout,
      no_dropout,
      sequences.scale);
}

Pair efficient_forward(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const Sequences& sequences) {
  const auto [out, padded_BHL, seed, offset, max_q, max_k] = at::_efficient_attention_forward(
      q_THP.unsqueeze(0),
      for_each_query_head(k_THP, q_THP.size(1)).unsqueeze(0),
      for_each_query_head(v_THP, q_THP.size(1)).unsqueeze(0),
      /*bias=*/std::nullopt,
      sequences.starts_q_B1,
      sequences.starts_k_B1,
      sequences.longest_q,
      sequences.longest_k,
      /*dropout_p=*/0.0,
      sequences.causal ? kCausalFromBottomRight : 0,
      /*compute_log_sumexp=*/true,
      sequences.scale);
  return {out.squeeze(0), packed_statistics(padded_BHL, sequences.starts_q_B1, q_THP.size(0))};
}

Triple efficient_backward(
    const at::Tensor& dout_THP,
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& out_THP,
    const at::Tensor& log_sum_exp_HT,
    const Sequences& sequences) {
  const std::int64_t num_heads = q_THP.size(1);
  const at::Tensor no_dropout = at::empty({}, at::TensorOptions(at::kLong)); // on the host
  const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      dout_THP.unsqueeze(0),
      q_THP.unsqueeze(0),
      for_each_query_head(k_THP, num_heads).unsqueeze(0),
      for_each_query_head(v_THP, num_heads).unsqueeze(0),
      /*bias=*/std::nullopt,
      out_THP.contiguous().unsqueeze(0),
      sequences.starts_q_B1,
      sequences.starts_k_B1,
      sequences.longest_q,
      sequences.longest_k,
      padded_statistics(log_sum_exp_HT, sequences.starts_q_B1, sequences.longest_q),
      /*dropout_p=*/0.0,
      no_dropout,
      no_dropout,
      sequences.causal ? kCausalFromBottomRight : 0,
      /*bias_requires_grad=*/false,
      sequences.scale);
  const auto of_key_heads = [&](const at::Tensor& dx) {
    const std::int64_t key_heads = k_THP.size(1);
    return key_heads == num_heads
               ? dx.squeeze(0)
               : dx.squeeze(0).unflatten(1, {key_heads, num_heads / key_heads}).sum(2);
  };
  return {dq.squeeze(0), of_key_heads(dk), of_key_heads(dv)};
}

Pair attention_cuda(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    std::int64_t longest_q,
    std::int64_t longest_k,
    bool causal) {
  const Sequences sequences{
      starts_q_B1.contiguous(),
      starts_k_B1.contiguous(),
      bound(longest_q, q_THP.size(0)),
      bound(longest_k, k_THP.size(0)),
      scale,
      causal};
  check_inputs(q_THP, k_THP, v_THP, sequences);
  if (q_THP.numel() == 0 || k_THP.numel() == 0) {
    return {
        at::zeros(q_THP.sizes(), q_THP.options()),
        at::zeros({q_THP.size(1), q_THP.size(0)}, q_THP.options().dtype(at::kFloat))};
  }
  auto [out_THP, log_sum_exp_HT] = (by_flash(q_THP) ? flash_forward : efficient_forward)(
      with_whole_packs(q_THP), with_whole_packs(k_THP), with_whole_packs(v_THP), sequences);
  return {without_padding(out_THP, q_THP.size(2)), log_sum_exp_HT};
}

Triple attention_backward_cuda(
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
  const Sequences sequences{
      starts_q_B1.contiguous(),
      starts_k_B1.contiguous(),
      bound(longest_q, q_THP.size(0)),
      bound(longest_k, k_THP.size(0)),
      scale,
      causal};
  check_inputs(q_THP, k_THP, v_THP, sequences);
  if (q_THP.numel() == 0 || k_THP.numel() == 0) {
    return {
        at::zeros(q_THP.sizes(), q_THP.options()),
        at::zeros(k_THP.sizes(), k_THP.options()),
        at::zeros(v_THP.sizes(), v_THP.options())};
  }
  const auto [dq, dk, dv] = (by_flash(q_THP) ? flash_backward : efficient_backward)(
      with_whole_packs(dout_THP),
      with_whole_packs(q_THP),
      with_whole_packs(k_THP),
      with_whole_packs(v_THP),
      with_whole_packs(out_THP),
      log_sum_exp_HT,
      sequences);
  const std::int64_t channels = q_THP.size(2);
  return {
      without_padding(dq, channels), without_padding(dk, channels), without_padding(dv, channels)};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("attention", &attention_cuda);
  library.impl("attention_backward", &attention_backward_cuda);
}

} // namespace baton::ops::cuda
