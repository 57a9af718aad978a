// SPDX-License-Identifier: Apache-2.0
// Depthwise causal convolution over packed sequences, with bias and SiLU, as Mamba mixers use it.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Widest convolution that the operators take.
inline constexpr std::int64_t kMaxConvWidth = 8;

/// States that sequences start from: the K-1 inputs before their first token, oldest first. They
/// may be stored wider than x, but are read in x's dtype, which holds every input exactly.
struct CausalConv1dStates {
  std::optional<at::Tensor> initial_states;  ///< [S, C, K-1]; absent: zeros
  std::optional<at::Tensor> initial_slots_B; ///< int32, -1 starts from zero; absent: slot b for b
};

struct CausalConv1dOutput {
  at::Tensor y_TC;
  at::Tensor
      final_states_BCK; ///< [B, C, K-1] the last K-1 inputs, in the initial states' dtype or x's
};

/// y[t, c] = act(bias[c] + sum_k weight[c, k] * x[t - K + 1 + k, c]), act SiLU or identity, where
/// inputs before a sequence's first token come from its state. x_TC may have any token stride;
/// weight_CK (K from 1 to 8) and bias_C in x's dtype or fp32; starts_B1 as in SequenceLayout.
/// Differentiable in x, weight, bias and the initial states, through y and the final states.
CausalConv1dOutput causal_conv1d(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu);

/// Of the inputs' shapes and dtypes; undefined where the input was absent.
struct CausalConv1dGradients {
  at::Tensor dx_TC;
  at::Tensor dweight_CK;
  at::Tensor dbias_C;
  at::Tensor dinitial_states;
};

/// What a gradient dy_TC of the outputs means for the inputs, as `causal_conv1d` had them.
CausalConv1dGradients causal_conv1d_backward(
    const at::Tensor& dy_TC,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu);

/// One token of each of B sequences; reads and advances states_SCK [S, C, K-1] in the given slots.
/// Slot -1 computes from a zero state and stores nothing. On the CPU, throws when two sequences
/// share a slot and when a slot is out of range. On a GPU nobody reads the slots before the kernel:
/// one out of range is like -1, and of sequences that share one, outputs and state are undefined.
/// Throws in gradient mode when an input requires a gradient.
at::Tensor causal_conv1d_step_(
    const at::Tensor& x_BC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const at::Tensor& states_SCK,
    const at::Tensor& slots_B,
    bool silu);

/// The rules that all of these operators check.
void check_causal_conv1d(
    const at::Tensor& x,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const c10::SymInt& num_sequences,
    const std::optional<at::Tensor>& states,
    const std::optional<at::Tensor>& slots);

} // namespace baton::ops
