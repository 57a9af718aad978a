// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <ATen/ATen.h>

namespace baton::infer {
namespace {

/// Positions and starts of a layout are int32.
constexpr std::int64_t kMaxSequenceTokens = std::numeric_limits<std::int32_t>::max();

/// A request on its way.
struct Running {
  std::size_t request = 0;
  std::int32_t slot = 0;             ///< in the cache
  std::vector<std::int64_t> history; ///< prompt and tokens so far
  std::int64_t new_tokens = 0;
};

/// Pages that all requests together can come to need.
std::int64_t pages_of(const std::vector<GenerationRequest>& requests, std::int64_t page_size) {
  std::int64_t pages = 0;
  for (const GenerationRequest& request : requests) {
    const auto prompt = static_cast<std::int64_t>(request.prompt.size());
    pages += pages_needed(1, prompt + request.max_new_tokens, page_size);
  }
  return pages;
}

/// Logits [V] behind the prompt.
at::Tensor prefill(Program& program, const Running& running, std::int64_t chunk) {
  const auto length = static_cast<std::int64_t>(running.history.size());
  at::Tensor logits;
  for (std::int64_t begin = 0; begin < length; begin += chunk) {
    const auto first = running.history.begin() + begin;
    const auto last = running.history.begin() + std::min(begin + chunk, length);
    logits = program.last_logits({{.slot = running.slot, .tokens = {first, last}}})[0];
  }
  return logits;
}

} // namespace

void Engine::check(const GenerationRequest& request) const {
  TORCH_CHECK(!request.prompt.empty(), "the prompt is empty");
  TORCH_CHECK(
      request.max_new_tokens >= 0,
      "max_new_tokens must not be negative, got ",
      request.max_new_tokens);
  const auto prompt = static_cast<std::int64_t>(request.prompt.size());
  TORCH_CHECK(
      prompt <= kMaxSequenceTokens && request.max_new_tokens <= kMaxSequenceTokens - prompt,
      "a sequence has at most ",
      kMaxSequenceTokens,
      " tokens, got a prompt of ",
      prompt,
      " and max_new_tokens ",
      request.max_new_tokens);
  for (const std::int64_t token : request.prompt) {
    TORCH_CHECK(
        token >= 0 && token < model_.config().vocabulary,
        "token id ",
        token,
        " is outside the vocabulary of ",
        model_.config().vocabulary);
  }
}

void Engine::load_kernels() const {
  generate(
      {{.prompt = {0, 0}, .max_new_tokens = 2, .end_tokens = {}, .sampling = {.temperature = 0}}},
      [](std::size_t, std::int64_t) { return true; });
}

void Engine::generate(const std::vector<GenerationRequest>& requests, const OnToken& on_token)
    const {
  std::for_each(requests.begin(), requests.end(), [this](const auto& request) { check(request); });
  StateCache cache(
      model_.states(),
      {.num_slots = static_cast<std::int64_t>(requests.size()),
       .num_pages = pages_of(requests, options_.page_size),
       .page_size = options_.page_size,
       .device = model_.device()});
  Program program(model_, cache);

  /// Draws the next token of a sequence; false when the sequence has ended.
  const auto advance = [&](Running& running, const at::Tensor& logits_V) {
    const GenerationRequest& request = requests[running.request];
    if (running.new_tokens == request.max_new_tokens) {
      return false;
    }
    const std::int64_t token = sample_token(
        logits_V,
        running.history,
        request.sampling,
        {.sample = request.sample, .position = static_cast<std::uint64_t>(running.history.size())});
    const auto& ends = request.end_tokens;
    if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
      return false;
    }
    running.history.push_back(token);
    ++running.new_tokens;
    return on_token(running.request, token) && running.new_tokens < request.max_new_tokens;
  };

  std::vector<Running> batch;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Running running{.request = i, .slot = cache.acquire(), .history = requests[i].prompt};
    if (advance(running, prefill(program, running, options_.prefill_chunk))) {
      batch.push_back(std::move(running));
    } else {
      cache.release(running.slot);
    }
  }
  while (!batch.empty()) {
    std::vector<BatchItem> items;
    items.reserve(batch.size());
    for (const Running& running : batch) {
      items.push_back({.slot = running.slot, .tokens = {running.history.back()}});
    }
    // At once, since every copy from a device waits for it.
    const at::Tensor logits_BV = program.last_logits(items).cpu();
    std::vector<Running> still_running;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (advance(batch[i], logits_BV[static_cast<std::int64_t>(i)])) {
        still_running.push_back(std::move(batch[i]));
      } else {
        cache.release(batch[i].slot);
      }
    }
    batch = std::move(still_running);
  }
}

} // namespace baton::infer
