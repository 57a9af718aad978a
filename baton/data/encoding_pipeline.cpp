// SPDX-License-Identifier: Apache-2.0
#include "baton/data/encoding_pipeline.h"

#include <exception>
#include <iterator>
#include <utility>

namespace baton {
namespace {

// Text that one thread encodes at a time.
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

} // namespace

EncodingPipeline::EncodingPipeline(
    Corpus& corpus,
    const DocumentEncoder& encoder,
    std::size_t threads)
    : corpus_(&corpus), encoder_(&encoder), capacity_(2 * threads) {
  for (std::size_t i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { work(); });
  }
}

EncodingPipeline::~EncodingPipeline() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void EncodingPipeline::work() {
  for (;;) {
    CorpusBatch batch;
    std::promise<EncodedBatch> promise;
    {
      const std::lock_guard reading(reading_);
      if (!wait_for_room() || !read(batch, promise)) {
        return;
      }
    }
    try {
      promise.set_value(encode(batch));
    } catch (...) {
      promise.set_exception(std::current_exception());
    }
  }
}

// False when nothing more is to be read.
bool EncodingPipeline::wait_for_room() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ended_ || batches_.size() < capacity_; });
  return !ended_;
}

// Reads a batch and queues the promise of it. False when there is nothing to encode.
bool EncodingPipeline::read(CorpusBatch& batch, std::promise<EncodedBatch>& promise) {
  bool failed = false;
  try {
    batch = corpus_->next(kBatchBytes);
  } catch (...) {
    promise.set_exception(std::current_exception());
    failed = true;
  }
  const bool found = !failed && !batch.slices.empty();
  {
    const std::lock_guard lock(mutex_);
    if (found || failed) {
      batches_.push_back(promise.get_future());
    }
    ended_ = ended_ || !found;
  }
  changed_.notify_all();
  return found;
}

EncodedBatch EncodingPipeline::encode(const CorpusBatch& batch) const {
  EncodedBatch encoded;
  encoded.file_bytes = batch.file_bytes;
  for (const CorpusSlice& slice : batch.slices) {
    EncodedSlice part = encoder_->encode(slice);
    std::move(part.documents.begin(), part.documents.end(), std::back_inserter(encoded.documents));
    std::move(part.bad_lines.begin(), part.bad_lines.end(), std::back_inserter(encoded.bad_lines));
    encoded.text_bytes += static_cast<std::int64_t>(slice.part.text.size());
  }
  return encoded;
}

std::optional<EncodedBatch> EncodingPipeline::next() {
  std::future<EncodedBatch> oldest;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_ || !batches_.empty(); });
    if (batches_.empty()) {
      return std::nullopt;
    }
    oldest = std::move(batches_.front());
    batches_.pop_front();
  }
  changed_.notify_all();
  return oldest.get();
}

} // namespace baton
