// SPDX-License-Identifier: Apache-2.0
#include "baton/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "baton/base/error.h"
#include "baton/base/upload.h"

namespace baton {
namespace {

template <class Value>
at::Tensor to_tensor(std::vector<Value> values, at::ScalarType dtype) {
  auto* owned = new std::vector<Value>(std::move(values));
  return at::from_blob(
      owned->data(),
      {static_cast<std::int64_t>(owned->size())},
      [owned](void*) { delete owned; },
      at::TensorOptions().dtype(dtype));
}

Microbatch to_microbatch(PackedTokens packed) {
  std::vector<SequenceLayout::Sequence> sequences;
  sequences.reserve(packed.pieces.size());
  for (const PackedTokens::Piece& piece : packed.pieces) {
    sequences.push_back({.length = piece.length, .first_position = piece.first});
  }
  Microbatch microbatch;
  microbatch.index = packed.index;
  microbatch.layout = make_layout(std::move(sequences));
  for (std::size_t i = 0; i < packed.labels.size(); ++i) {
    const bool counted = packed.mask.empty() || packed.mask[i] != 0.0F;
    microbatch.targets += packed.labels[i] != kNoLabel && counted ? 1 : 0;
  }
  if (!packed.mask.empty()) {
    microbatch.mask_T = to_tensor(std::move(packed.mask), at::kFloat);
  }
  microbatch.tokens_T = to_tensor(std::move(packed.tokens), at::kLong);
  microbatch.labels_T = to_tensor(std::move(packed.labels), at::kLong);
  return microbatch;
}

PackerConfig packer_config(const LoaderConfig& config) {
  return {
      .tokens_per_microbatch = config.tokens_per_microbatch,
      .vocab_size = config.vocab_size,
      .shuffle_seed = config.seed};
}

} // namespace

Microbatch Microbatch::to(at::Device device) const {
  Microbatch moved = *this;
  moved.tokens_T = upload(tokens_T, device);
  moved.labels_T = upload(labels_T, device);
  if (mask_T) {
    moved.mask_T = upload(*mask_T, device);
  }
  moved.layout = layout.to(device);
  return moved;
}

/// Makes microbatches ahead on a thread of its own, in order, into a bounded queue.
class Loader::Prefetcher {
 public:
  /// A microbatch and the place behind it, or what went wrong.
  struct Item {
    PackedTokens packed;
    LoaderState after;
    std::exception_ptr error;
  };

  Prefetcher(Packer packer, const LoaderState& from, const LoaderConfig& config)
      : packer_(std::move(packer)),
        before_(config.rank * config.block),
        behind_((config.count - 1 - config.rank) * config.block),
        block_(config.block),
        capacity_(static_cast<std::size_t>(config.prefetch)),
        thread_([this, from] { run(from); }) {}

  ~Prefetcher() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// Throws the error in its turn, again on every further call.
  Item take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !ready_.empty(); });
    if (ready_.front().error) {
      std::rethrow_exception(ready_.front().error);
    }
    Item item = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return item;
  }

 private:
  void run(LoaderState state) {
    for (std::int64_t i = 0;; i = (i + 1) % block_) {
      Item item;
      try {
        packer_.skip(state, i == 0 ? before_ : 0);
        item.packed = packer_.pack(state);
        packer_.skip(state, i == block_ - 1 ? behind_ : 0);
        item.after = state;
      } catch (...) {
        item.error = std::current_exception();
      }
      const bool failed = item.error != nullptr;
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopped_ || ready_.size() < capacity_; });
      if (stopped_) {
        return;
      }
      ready_.push_back(std::move(item));
      lock.unlock();
      changed_.notify_all();
      if (failed) {
        return;
      }
    }
  }

  Packer packer_;
  std::int64_t before_; // microbatches of other ranks before this one's block
  std::int64_t behind_;
  std::int64_t block_;
  std::size_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> ready_;
  bool stopped_ = false;
  std::thread thread_; // last: it uses the others
};

Loader::Loader(std::shared_ptr<const Blend> blend, const LoaderConfig& config)
    : config_(config), packer_(std::move(blend), packer_config(config)), state_(packer_.start()) {
  if (config.prefetch < 1) {
    throw Error("prefetch must be at least 1: " + std::to_string(config.prefetch));
  }
  if (config.block < 1) {
    throw Error("a block must have a microbatch at least: " + std::to_string(config.block));
  }
  if (config.rank < 0 || config.rank >= config.count) {
    throw Error(
        "a rank must be one of 0 to count - 1: " + std::to_string(config.rank) + " of " +
        std::to_string(config.count));
  }
}

Loader::~Loader() = default;

Microbatch Loader::next() {
  if (!prefetcher_) {
    prefetcher_ = std::make_unique<Prefetcher>(packer_, state_, config_);
  }
  Prefetcher::Item item = prefetcher_->take();
  state_ = item.after;
  return to_microbatch(std::move(item.packed));
}

void Loader::restore(const LoaderState& state) {
  packer_.check(state);
  prefetcher_.reset();
  state_ = state;
}

EvalLoader::EvalLoader(
    std::shared_ptr<const IndexedDataset> dataset,
    std::int64_t tokens_per_microbatch,
    std::int64_t vocab_size)
    : packer_(
          std::make_shared<const Blend>(std::vector{std::move(dataset)}),
          {.tokens_per_microbatch = tokens_per_microbatch,
           .vocab_size = vocab_size,
           .shuffle_seed = {}}),
      state_(packer_.start()) {}

std::optional<Microbatch> EvalLoader::next() {
  PackedTokens packed = packer_.pack(state_);
  if (packed.tokens.empty()) {
    return std::nullopt;
  }
  return to_microbatch(std::move(packed));
}

} // namespace baton
