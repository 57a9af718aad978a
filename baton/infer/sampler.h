// SPDX-License-Identifier: Apache-2.0
// Draws the next token from logits.
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

namespace baton::infer {

/// How the next token is drawn. The filters are applied in the order of these fields, each to what
/// the one before has left, as transformers and vLLM do:
///   1. repetition_penalty on the logits of tokens that the context holds,
///   2. temperature,
///   3. top_k, 4. top_p, 5. min_p.
struct SamplingConfig {
  /// Logits of tokens in the context are divided by it when positive, multiplied when negative,
  /// once however often the token occurs (Keskar et al., "CTRL", 2019, section 4.1). 1 changes
  /// nothing.
  double repetition_penalty = 1;
  double temperature = 1; ///< logits are divided by it; 0 takes the most likely token
  std::int64_t top_k = 0; ///< keeps the k most likely tokens; 0 keeps all
  /// Keeps the fewest of the most likely tokens whose probabilities add to at least top_p (Holtzman
  /// et al., "The curious case of neural text degeneration", 2020). 1 keeps all.
  double top_p = 1;
  double min_p = 0; ///< drops tokens less likely than min_p times the most likely; 0 keeps all
  std::uint64_t seed = 0;

  /// Throws with the name, the rule and the value of a field that is out of range.
  void check() const;
};

/// Which draw of a run it is. The same place gives the same random number in any batch, on any
/// device and after any split of the work.
struct SamplePlace {
  std::uint64_t sample = 0;   ///< number of the sequence within the run
  std::uint64_t position = 0; ///< position that the new token will have in its sequence
};

/// Draws a token from logits_V (one row, any floating dtype and device). `context` holds the tokens
/// so far, prompt included; it is read only for the repetition penalty.
///
/// Of equally likely tokens the smaller id comes first: in the greedy choice, and at the edge of
/// top_k and top_p. Where filters keep all tokens they do not change the draw.
/// Throws for a bad config, for a context token outside the vocabulary, and `baton::RunError` for
/// logits that are NaN, +inf or all -inf (a single -inf forbids its token).
std::int64_t sample_token(
    const at::Tensor& logits_V,
    std::span<const std::int64_t> context,
    const SamplingConfig& config,
    SamplePlace place);

} // namespace baton::infer
