// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding. Su et al., "RoFormer", 2021.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace baton::ops {

struct RotaryConfig {
  std::int64_t head_dim = 64;
  double base = 10000.0;
  double fraction = 1.0;         ///< of the head's channels that turn, rounded down to an even count
  std::string scaling = "none";  ///< "none", "linear" or "yarn"
  double factor = 1.0;           ///< by which the context grows
  std::int64_t original_length = 4096; ///< yarn: context before the extension
};

struct RotaryFrequencies {
  at::Tensor inverse_frequencies; ///< fp32 [R / 2], radians a position; R channels turn
  double attention_factor = 1.0;  ///< multiplies cosine and sine
};

/// Frequencies base^(-2i/R); "linear" divides them by the factor (Chen et al., 2023), "yarn" blends
/// both by wavelength and scales by 0.1 ln(factor) + 1 (Peng et al., "YaRN", 2023, beta 32 and 1).
RotaryFrequencies rotary_frequencies(const RotaryConfig& config);

/// Turns the first R channels of every head: pairs are (i, i + R/2), or (2i, 2i + 1) when
/// `interleaved`. x_THP fp64, fp32 or bf16; positions_T int64; angles and products in fp32 (fp64 for
/// fp64). Throws when 2 * inverse_frequencies exceeds the head.
at::Tensor rotary(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double attention_factor,
    bool interleaved);

} // namespace baton::ops
