// SPDX-License-Identifier: Apache-2.0
// Causal attention over packed sequences.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace baton::ops {

struct AttentionOutput {
  at::Tensor out_THP;        ///< q's shape and dtype
  at::Tensor log_sum_exp_HT; ///< log of the sum of exp of each query's scores; fp32 (fp64 for fp64)
};

/// Bounds on the lengths of sequences; 0: any length up to T. On a GPU they size grids: without
/// them each sequence costs as many blocks as if it held all tokens, most of which find nothing.
struct LongestSequences {
  std::int64_t queries = 0;
  std::int64_t keys = 0;
};

/// softmax(scale q k^T + mask) v, sequence by sequence.
///
/// q [Tq, Hq, P], k and v [Tk, Hk, P] in one dtype (fp64, fp32, bf16); Hq is a multiple of Hk, and
/// query head h reads key head h / (Hq / Hk). `starts_q_B1` and `starts_k_B1` are int32 on q's
/// device. The mask is causal and aligned at the end: query i of Lq sees the keys up to i + Lk -
/// Lq, so that Lq == Lk is plain causal attention and fewer queries continue a longer sequence. Not
/// causal, every query sees all keys of its sequence: of a segment that is wholly before it.
/// Differentiable in q, k and v through `out` alone. Throws when shapes or dtypes disagree and, on
/// the CPU, when a sequence has more queries than keys, or is longer than `longest` says. A GPU
/// takes fp32 and bf16, heads of bf16 up to 256 channels; whether its gradient has equal bits in
/// every run is at::globalContext().deterministicAlgorithms()'s choice.
AttentionOutput attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    const LongestSequences& longest = {},
    bool causal = true);

struct AttentionGradients {
  at::Tensor dq_THP;
  at::Tensor dk_THP; ///< zero where no query sees a key
  at::Tensor dv_THP;
};

/// The gradients for given dout [Tq, Hq, P], of what `attention` took and gave.
AttentionGradients attention_backward(
    const at::Tensor& dout_THP,
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const AttentionOutput& output,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1,
    double scale,
    const LongestSequences& longest = {},
    bool causal = true);

/// What `attention` and its kernels ask of their inputs, but for the lengths.
void check_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& starts_q_B1,
    const at::Tensor& starts_k_B1);

} // namespace baton::ops
