// SPDX-License-Identifier: Apache-2.0
// Where each parameter's values stand in flat buckets, and which rank owns which of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::parallel {

struct BucketConfig {
  std::int64_t bucket_bytes = 32 << 20; ///< of gradients; a larger parameter has a bucket alone
  /// Sums have the same bits for any number of dp ranks: those of gradients go by one tree over the
  /// global order of microbatches, those of squares over blocks that no shard cuts.
  bool same_sums = false;
  /// Of each parameter, a number of those with which it may share a bucket; empty: with all.
  std::vector<int> classes = {};
};

/// Consecutive values of one parameter within one bucket.
struct BucketSlice {
  std::size_t parameter = 0;
  std::size_t bucket = 0;
  std::int64_t begin = 0;  ///< within the parameter's values, flattened
  std::int64_t length = 0; ///< values
  std::int64_t offset = 0; ///< within the bucket
};

struct Bucket {
  at::ScalarType dtype = at::kFloat; ///< of its parameters
  std::vector<BucketSlice> contents; ///< whole parameters
  std::int64_t size = 0;             ///< values, with what fills the gaps; a multiple of the ranks
  std::int64_t block = 0;            ///< values that one rank always owns together
};

/// A slice whose squares are summed apart, and the place of that sum among those of all ranks.
struct SquaresCell {
  BucketSlice slice;
  std::size_t place = 0;
};

/// Parameters in buckets of one dtype and class each, the last parameter first, as backward
/// finishes them; likewise the buckets, by the parameter that is finished last. Every parameter
/// begins at a multiple of 64 values. A bucket is cut among the ranks in equal shards in rank
/// order, which may begin and end inside a parameter.
class BucketPlan {
 public:
  /// Takes dtypes and sizes of `parameters`. Throws `Error` where `same_sums` is asked for
  /// with a number of ranks that is no power of two up to 64.
  BucketPlan(at::TensorList parameters, int ranks, const BucketConfig& config);

  const std::vector<Bucket>& buckets() const { return buckets_; }
  int ranks() const { return ranks_; }
  std::int64_t shard_size(std::size_t bucket) const { return buckets_[bucket].size / ranks_; }

  /// What a rank owns, bucket by bucket; at most one slice of a parameter.
  std::vector<BucketSlice> owned_by(int rank) const;

  /// The same cut into blocks where sums must be the same for any number of ranks.
  std::vector<SquaresCell> cells_of(int rank) const;

  /// The parameter of each place of a sum of squares, over all ranks. Where a parameter has one
  /// place only, ranks add their parts of it.
  const std::vector<std::size_t>& parameter_of_place() const { return parameter_of_place_; }

 private:
  void make_places(std::size_t num_parameters);

  int ranks_;
  bool same_sums_;
  std::vector<Bucket> buckets_;
  std::vector<SquaresCell> cells_; // of all ranks, where cut into blocks
  std::vector<std::size_t> parameter_of_place_;
};

} // namespace baton::parallel
