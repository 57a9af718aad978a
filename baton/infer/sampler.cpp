// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <c10/util/Exception.h>

#include "baton/base/error.h"
#include "baton/base/random.h"

namespace baton::infer {
namespace {

struct Candidate {
  std::int64_t token;
  double logit;
  double weight; // exp((logit - largest) / temperature): a probability but for a common factor
};

// A total order, so that ties fall the same way everywhere.
bool more_likely(const Candidate& left, const Candidate& right) {
  return left.logit != right.logit ? left.logit > right.logit : left.token < right.token;
}

std::vector<Candidate> read_logits(const at::Tensor& logits_V) {
  TORCH_CHECK(
      logits_V.dim() == 1 && logits_V.size(0) > 0 && logits_V.is_floating_point(),
      "logits must be one row of floating point numbers: ",
      logits_V.sizes(),
      " of ",
      logits_V.scalar_type());
  const at::Tensor host_V = logits_V.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* data = host_V.const_data_ptr<double>();
  std::vector<Candidate> candidates(host_V.size(0));
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (std::isnan(data[i]) || data[i] == std::numeric_limits<double>::infinity()) {
      throw RunError(
          "the model's logit of token " + std::to_string(i) + " is " + std::to_string(data[i]));
    }
    candidates[i] = {static_cast<std::int64_t>(i), data[i], 0};
  }
  return candidates;
}

void penalize_repetition(
    std::vector<Candidate>& candidates,
    std::span<const std::int64_t> context,
    double penalty) {
  const auto vocabulary = static_cast<std::int64_t>(candidates.size());
  std::vector<bool> done(candidates.size());
  for (const std::int64_t token : context) {
    TORCH_CHECK(
        token >= 0 && token < vocabulary,
        "tokens of the context must be in [0, ",
        vocabulary,
        "): ",
        token);
    if (!done[token]) {
      double& logit = candidates[token].logit;
      logit = logit > 0 ? logit / penalty : logit * penalty;
      done[token] = true;
    }
  }
}

void keep_top_k(std::vector<Candidate>& candidates, std::int64_t top_k) {
  if (top_k == 0 || top_k >= static_cast<std::int64_t>(candidates.size())) {
    return;
  }
  std::nth_element(candidates.begin(), candidates.begin() + top_k, candidates.end(), more_likely);
  candidates.resize(top_k);
}

// Sorts no further than the probabilities reach: a sharp distribution over a large vocabulary needs
// its first few tokens only.
void keep_top_p(std::vector<Candidate>& candidates, double top_p) {
  if (top_p >= 1) {
    return;
  }
  double total = 0;
  for (const Candidate& candidate : candidates) {
    total += candidate.weight;
  }
  double sum = 0;
  std::size_t kept = 0;
  std::size_t sorted = 0;
  while (kept < candidates.size() && (kept == 0 || sum < top_p * total)) {
    if (kept == sorted) {
      sorted = std::min(candidates.size(), 8 * sorted + 64);
      const auto begin = candidates.begin() + static_cast<std::ptrdiff_t>(kept);
      const auto middle = candidates.begin() + static_cast<std::ptrdiff_t>(sorted);
      std::partial_sort(begin, middle, candidates.end(), more_likely);
    }
    sum += candidates[kept].weight;
    ++kept;
  }
  candidates.resize(kept);
}

void keep_min_p(std::vector<Candidate>& candidates, double min_p) {
  // The most likely token has weight 1.
  candidates.erase(
      std::remove_if(
          candidates.begin(),
          candidates.end(),
          [min_p](const Candidate& candidate) { return candidate.weight < min_p; }),
      candidates.end());
}

// In [0, 1) with 53 bits: 24 would never reach the rarest tokens of a large vocabulary.
double uniform_of(const SamplingConfig& config, SamplePlace place) {
  const RandomKey key = RandomKey(config.seed).with("sampling").with(place.sample);
  const auto words = philox(key, place.position);
  return (static_cast<double>(words[0] >> 5) * 0x1p26 + static_cast<double>(words[1] >> 6)) *
         0x1p-53;
}

// Inverts the cumulative distribution over rising token ids, whatever order the filters left.
std::int64_t draw(std::vector<Candidate>& candidates, double uniform) {
  std::sort(
      candidates.begin(), candidates.end(), [](const Candidate& left, const Candidate& right) {
        return left.token < right.token;
      });
  double total = 0;
  for (const Candidate& candidate : candidates) {
    total += candidate.weight;
  }
  double sum = 0;
  std::int64_t token = -1;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight > 0) {
      token = candidate.token;
    }
    sum += candidate.weight;
    if (sum > uniform * total) {
      break;
    }
  }
  return token;
}

} // namespace

void SamplingConfig::check() const {
  TORCH_CHECK(
      repetition_penalty > 0 && std::isfinite(repetition_penalty),
      "repetition_penalty must be above 0: ",
      repetition_penalty);
  TORCH_CHECK(
      temperature >= 0 && std::isfinite(temperature),
      "temperature must be at least 0: ",
      temperature);
  TORCH_CHECK(top_k >= 0, "top_k must be at least 0 (0 keeps all tokens): ", top_k);
  TORCH_CHECK(top_p > 0 && top_p <= 1, "top_p must be in (0, 1]: ", top_p);
  TORCH_CHECK(min_p >= 0 && min_p <= 1, "min_p must be in [0, 1]: ", min_p);
}

std::int64_t sample_token(
    const at::Tensor& logits_V,
    std::span<const std::int64_t> context,
    const SamplingConfig& config,
    SamplePlace place) {
  config.check();
  std::vector<Candidate> candidates = read_logits(logits_V);
  if (config.repetition_penalty != 1) {
    penalize_repetition(candidates, context, config.repetition_penalty);
  }
  const Candidate best = *std::min_element(candidates.begin(), candidates.end(), more_likely);
  if (best.logit == -std::numeric_limits<double>::infinity()) {
    throw RunError("the model's logits are all -inf");
  }
  if (config.temperature == 0) {
    return best.token;
  }
  keep_top_k(candidates, config.top_k);
  for (Candidate& candidate : candidates) {
    candidate.weight = std::exp((candidate.logit - best.logit) / config.temperature);
  }
  keep_top_p(candidates, config.top_p);
  keep_min_p(candidates, config.min_p);
  return draw(candidates, uniform_of(config, place));
}

} // namespace baton::infer
