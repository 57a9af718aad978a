// SPDX-License-Identifier: Apache-2.0
// What the operators of the scan take, and the rules that it obeys.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::ops {

inline constexpr double kNoTimeStepLimit = std::numeric_limits<double>::infinity();

/// How time steps are made of the raw ones. The gradient is zero where the limits cut.
struct SsdTimeStep {
  std::optional<at::Tensor> bias_H = {};
  bool softplus = true;
  double min = 0.0;
  double max = kNoTimeStepLimit;
};

/// Activations are fp64, fp32 or bf16; A, D and the bias may be wider than they.
struct SsdInputs {
  at::Tensor x_THP;
  at::Tensor dt_TH; ///< before bias, softplus and limits
  at::Tensor A_H;   ///< negative: -exp(A_log)
  at::Tensor B_TGN; ///< head h belongs to group h / (H / G)
  at::Tensor C_TGN;
  at::Tensor starts; ///< int32 [B + 1], where the sequences begin in the packed stream
  std::optional<at::Tensor> D = {}; ///< [H] or [H, P]
  SsdTimeStep time_step = {};
};

/// Where the sequences start from.
struct SsdStart {
  std::optional<at::Tensor> states_SHPN = {}; ///< fp32, fp64 for fp64 inputs; absent: zero
  std::optional<at::Tensor> slots_B =
      {}; ///< int32; -1 starts from zero. Absent: sequence b from slot b
};

/// Sizes of a scan: tokens, heads, head dim, groups, state dim, sequences.
struct SsdSizes {
  std::int64_t T, H, P, G, N, B;
  std::int64_t heads_per_group() const { return H / G; }
  std::int64_t state_size() const { return P * N; }
};

/// The dtype of states and of all sums: fp64 for fp64 activations, else fp32.
at::ScalarType ssd_state_dtype(const at::Tensor& x);

/// Checks what every operator of the scan takes: values [T, H, P] (x, or dy), dt, A, keys [T, G, N]
/// (B or C), starts, bias and limits. Throws c10::Error naming the rule and the values.
SsdSizes checked_ssd_sizes(
    const at::Tensor& values_THP,
    const at::Tensor& dt_TH,
    const at::Tensor& A_H,
    const at::Tensor& keys_TGN,
    const at::Tensor& starts,
    const SsdTimeStep& time_step);

/// Checks all inputs of the scan, and what it starts from.
SsdSizes checked_ssd_inputs(const SsdInputs& inputs, const SsdStart& start);

/// Checks states in slots against the sizes; without slots there must be one state a sequence.
void check_ssd_states(
    const at::Tensor& states_SHPN,
    bool has_slots,
    const SsdSizes& sizes,
    at::ScalarType state_dtype);

/// Checks D against the sizes.
void check_ssd_skip(const std::optional<at::Tensor>& D, const SsdSizes& sizes);

/// Reads slot numbers on the host (0 to B-1 where none are given) and checks them against S.
std::vector<std::int64_t>
checked_slots(const std::optional<at::Tensor>& slots_B, std::int64_t B, std::int64_t S);

} // namespace baton::ops
