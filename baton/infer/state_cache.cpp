// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/state_cache.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "baton/base/huge_pages.h"
#include "baton/base/upload.h"

namespace baton::infer {
namespace {

constexpr std::int64_t kMaxNumbers = std::numeric_limits<std::int32_t>::max();

// 0, 1, ... from the back, so that the first to be taken is 0.
std::vector<std::int32_t> numbers_down(std::int64_t count) {
  std::vector<std::int32_t> numbers(count);
  for (std::int64_t i = 0; i < count; ++i) {
    numbers[i] = static_cast<std::int32_t>(count - 1 - i);
  }
  return numbers;
}

void check_config(const StateCacheConfig& config) {
  TORCH_CHECK(
      config.num_slots >= 1 && config.num_slots <= kMaxNumbers,
      "a cache must have between 1 and ",
      kMaxNumbers,
      " slots: ",
      config.num_slots);
  TORCH_CHECK(
      config.num_pages >= 0 && config.num_pages <= kMaxNumbers,
      "a cache must have between 0 and ",
      kMaxNumbers,
      " pages: ",
      config.num_pages);
  TORCH_CHECK(config.page_size >= 1, "a page must hold at least 1 token: ", config.page_size);
}

} // namespace

std::int64_t
pages_needed(std::int64_t num_sequences, std::int64_t max_tokens, std::int64_t page_size) {
  TORCH_CHECK(
      num_sequences >= 0 && max_tokens >= 0 && page_size >= 1,
      "sequences and tokens must be at least 0, a page's tokens at least 1: ",
      num_sequences,
      ", ",
      max_tokens,
      ", ",
      page_size);
  const std::int64_t pages = max_tokens / page_size + (max_tokens % page_size != 0 ? 1 : 0);
  TORCH_CHECK(
      pages == 0 || num_sequences <= kMaxNumbers / pages,
      "a cache has at most ",
      kMaxNumbers,
      " pages: ",
      num_sequences,
      " sequences of ",
      max_tokens,
      " tokens in pages of ",
      page_size,
      " need more");
  return num_sequences * pages;
}

StateCache::StateCache(const std::vector<nn::StateSpec>& specs, const StateCacheConfig& config)
    : config_(config) {
  check_config(config);
  tensors_.page_size = config.page_size;
  for (const nn::StateSpec& spec : specs) {
    const bool grows = spec.kind == nn::StateKind::kGrowsByToken;
    std::vector<std::int64_t> shape =
        grows ? std::vector{config.num_pages, config.page_size} : std::vector{config.num_slots};
    shape.insert(shape.end(), spec.shape.begin(), spec.shape.end());
    const at::Tensor tensor =
        at::zeros(shape, at::TensorOptions().dtype(spec.dtype).device(config.device));
    put_on_huge_pages(tensor); // a token reads it from end to end
    TORCH_CHECK(
        tensors_.tensors.emplace(spec.name, tensor).second,
        "two states of a cache have the name ",
        spec.name);
    paged_ = paged_ || grows;
    if (!grows) {
      fixed_.push_back(tensor);
    }
  }
  sequences_.resize(config.num_slots);
  free_slots_ = numbers_down(config.num_slots);
  free_pages_ = numbers_down(paged_ ? config.num_pages : 0);
}

const StateCache::Sequence& StateCache::sequence(std::int32_t slot) const {
  TORCH_CHECK(
      slot >= 0 && slot < config_.num_slots,
      "slots of this cache are in [0, ",
      config_.num_slots,
      "): ",
      slot);
  TORCH_CHECK(sequences_[slot].taken, "slot ", slot, " holds no sequence");
  return sequences_[slot];
}

std::int32_t StateCache::acquire() {
  TORCH_CHECK(
      !free_slots_.empty(),
      "the cache holds ",
      config_.num_slots,
      " sequences, and all are in use");
  const std::int32_t slot = free_slots_.back();
  for (at::Tensor& tensor : fixed_) {
    tensor.select(0, slot).zero_();
  }
  free_slots_.pop_back();
  sequences_[slot].taken = true;
  return slot;
}

void StateCache::release(std::int32_t slot) {
  const Sequence& released = sequence(slot);
  // Pages come back in the order in which they would be taken again.
  free_pages_.insert(free_pages_.end(), released.pages.rbegin(), released.pages.rend());
  free_slots_.push_back(slot);
  sequences_[slot] = Sequence{};
}

std::int64_t StateCache::missing_pages(const Sequence& sequence, std::int64_t num_tokens) const {
  TORCH_CHECK(
      num_tokens >= 0 && num_tokens <= kMaxNumbers - sequence.length,
      "a sequence grows by at least 0 tokens, to at most ",
      kMaxNumbers,
      ": by ",
      num_tokens,
      " from ",
      sequence.length);
  if (!paged_) {
    return 0;
  }
  return pages_needed(1, sequence.length + num_tokens, config_.page_size) -
         static_cast<std::int64_t>(sequence.pages.size());
}

bool StateCache::has_room(std::int32_t slot, std::int64_t num_tokens) const {
  return missing_pages(sequence(slot), num_tokens) <= num_free_pages();
}

void StateCache::grow(std::int32_t slot, std::int64_t num_tokens) {
  const std::int64_t missing = missing_pages(sequence(slot), num_tokens);
  Sequence& growing = sequences_[slot];
  TORCH_CHECK(
      missing <= num_free_pages(),
      "the cache holds ",
      config_.num_pages * config_.page_size,
      " tokens (",
      config_.num_pages,
      " pages of ",
      config_.page_size,
      "): a sequence of ",
      growing.length,
      " tokens needs ",
      missing,
      " more pages for ",
      num_tokens,
      " more tokens, and ",
      num_free_pages(),
      " are free");
  growing.pages.insert(growing.pages.end(), free_pages_.rbegin(), free_pages_.rbegin() + missing);
  free_pages_.resize(free_pages_.size() - missing);
  growing.length += num_tokens;
}

std::int64_t StateCache::length(std::int32_t slot) const {
  return sequence(slot).length;
}

nn::CacheView StateCache::view(std::span<const std::int32_t> slots) const {
  std::size_t longest = 0;
  std::vector<bool> named(sequences_.size());
  for (const std::int32_t slot : slots) {
    longest = std::max(longest, sequence(slot).pages.size());
    TORCH_CHECK(!named[slot], "slot ", slot, " stands twice in one batch");
    named[slot] = true;
  }
  const auto batch = static_cast<std::int64_t>(slots.size());
  at::Tensor table_BM = at::full({batch, static_cast<std::int64_t>(longest)}, -1, at::kInt);
  auto* row = table_BM.mutable_data_ptr<std::int32_t>();
  for (const std::int32_t slot : slots) {
    std::copy(sequences_[slot].pages.begin(), sequences_[slot].pages.end(), row);
    row += longest;
  }
  nn::CacheView view = tensors_;
  view.page_table_BM = upload(table_BM, config_.device);
  return view;
}

std::int64_t StateCache::num_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors_.tensors) {
    bytes += static_cast<std::int64_t>(tensor.nbytes());
  }
  return bytes;
}

} // namespace baton::infer
