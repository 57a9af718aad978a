// SPDX-License-Identifier: Apache-2.0
// Generation: prompts in, tokens out, several sequences in one batch.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "baton/infer/program.h"
#include "baton/infer/sampler.h"
#include "baton/infer/state_cache.h"
#include "baton/model/hybrid_model.h"

namespace baton::infer {

struct GenerationRequest {
  std::vector<std::int64_t> prompt; ///< at least one token
  std::int64_t max_new_tokens = 128;
  std::vector<std::int64_t> end_tokens; ///< one of these ends the sequence and is not reported
  SamplingConfig sampling;
  std::uint64_t sample = 0; ///< with `sampling.seed` and the position it decides every draw
};

/// Called with the index of a request and its next token; false ends that request.
using OnToken = std::function<bool(std::size_t request, std::int64_t token)>;

struct EngineOptions {
  std::int64_t page_size = 64;       ///< tokens of keys and values a page
  std::int64_t prefill_chunk = 2048; ///< tokens of a prompt that one pass takes
};

class Engine {
 public:
  /// The model must outlive the engine.
  explicit Engine(const model::HybridModel& model, EngineOptions options = {})
      : model_(model), options_(options) {}

  /// Runs all requests to their ends, decoding them in one batch. What one of them yields does not
  /// depend on the others. Throws Error for an empty prompt, an id outside the
  /// vocabulary, or 2^31 tokens and more.
  void generate(const std::vector<GenerationRequest>& requests, const OnToken& on_token) const;

  /// Runs a prompt and a decoding step for nothing, so that no kernel is compiled between tokens.
  void load_kernels() const;

 private:
  void check(const GenerationRequest& request) const;

  const model::HybridModel& model_;
  EngineOptions options_;
};

} // namespace baton::infer
