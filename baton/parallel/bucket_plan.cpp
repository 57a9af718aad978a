// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/bucket_plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

// Wide loads and stores of any dtype begin at such a multiple.
constexpr std::int64_t kAlignment = 64;
// Blocks of a bucket that is the same for any number of ranks up to as many.
constexpr int kBlocks = 64;
constexpr std::int64_t kGradientBytes = 4;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// The part of a slice within [begin, end) of its bucket; empty where there is none.
BucketSlice cut(const BucketSlice& slice, std::int64_t begin, std::int64_t end) {
  BucketSlice part = slice;
  part.offset = std::max(slice.offset, begin);
  part.begin = slice.begin + part.offset - slice.offset;
  part.length = std::max<std::int64_t>(0, std::min(slice.offset + slice.length, end) - part.offset);
  return part;
}

} // namespace

BucketPlan::BucketPlan(at::TensorList parameters, int ranks, const BucketConfig& config)
    : ranks_(ranks), same_sums_(config.same_sums) {
  if (same_sums_ && (ranks > kBlocks || (ranks & (ranks - 1)) != 0)) {
    throw Error(
        "train.deterministic_reduce takes a power of two of ranks with equal parameters, " +
        std::to_string(kBlocks) + " at most: " + std::to_string(ranks));
  }
  const std::int64_t most = std::max<std::int64_t>(1, config.bucket_bytes / kGradientBytes);
  using Kind = std::pair<at::ScalarType, int>;
  std::map<Kind, std::size_t> open; // the bucket of each kind that is being filled
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const at::ScalarType dtype = parameters[i].scalar_type();
    const Kind kind{dtype, config.classes.empty() ? 0 : config.classes[i]};
    const std::int64_t length = parameters[i].numel();
    auto found = open.find(kind);
    if (found == open.end() || buckets_[found->second].size + length > most) {
      found = open.insert_or_assign(kind, buckets_.size()).first;
      buckets_.push_back({.dtype = dtype, .contents = {}});
    }
    Bucket& bucket = buckets_[found->second];
    bucket.contents.push_back({.parameter = i, .length = length, .offset = bucket.size});
    bucket.size = round_up(bucket.size + length, kAlignment);
  }
  std::sort(buckets_.begin(), buckets_.end(), [](const Bucket& a, const Bucket& b) {
    return a.contents.back().parameter > b.contents.back().parameter;
  });
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& bucket = buckets_[i];
    for (BucketSlice& whole : bucket.contents) {
      whole.bucket = i;
    }
    const std::int64_t blocks = same_sums_ ? kBlocks : ranks;
    bucket.size = round_up(std::max(bucket.size, kAlignment), blocks * kAlignment);
    bucket.block = bucket.size / blocks;
  }
  make_places(parameters.size());
}

void BucketPlan::make_places(std::size_t num_parameters) {
  if (!same_sums_) {
    parameter_of_place_.resize(num_parameters);
    std::iota(parameter_of_place_.begin(), parameter_of_place_.end(), 0);
    return;
  }
  for (const Bucket& bucket : buckets_) {
    for (const BucketSlice& whole : bucket.contents) {
      const std::int64_t first = whole.offset / bucket.block;
      for (std::int64_t block = first; block * bucket.block < whole.offset + whole.length;
           ++block) {
        const BucketSlice part = cut(whole, block * bucket.block, (block + 1) * bucket.block);
        cells_.push_back({part, parameter_of_place_.size()});
        parameter_of_place_.push_back(whole.parameter);
      }
    }
  }
}

std::vector<BucketSlice> BucketPlan::owned_by(int rank) const {
  std::vector<BucketSlice> owned;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    for (const BucketSlice& whole : buckets_[i].contents) {
      const BucketSlice part = cut(whole, rank * shard_size(i), (rank + 1) * shard_size(i));
      if (part.length > 0) {
        owned.push_back(part);
      }
    }
  }
  return owned;
}

std::vector<SquaresCell> BucketPlan::cells_of(int rank) const {
  std::vector<SquaresCell> cells;
  if (!same_sums_) {
    for (const BucketSlice& slice : owned_by(rank)) {
      cells.push_back({slice, slice.parameter});
    }
    return cells;
  }
  for (const SquaresCell& cell : cells_) {
    if (cell.slice.offset / shard_size(cell.slice.bucket) == rank) {
      cells.push_back(cell);
    }
  }
  return cells;
}

} // namespace baton::parallel
