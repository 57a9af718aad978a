// SPDX-License-Identifier: Apache-2.0
// Gradients of a step in flat buckets, summed over microbatches and ranks while backward runs.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/parallel/bucket_plan.h"
#include "baton/parallel/mesh.h"

namespace baton::parallel {

/// Sums the gradients of a step: over its microbatches on this rank in fp32 (fp64 for fp64
/// parameters), then over the ranks that hold the same parameters, of which each gets its shard. A
/// bucket's sum over the ranks begins as soon as the last microbatch's backward has given all of
/// it, and runs beside the rest of backward.
///
/// Where one microbatch on one rank is all there is, gradients stay where autograd left them, in
/// the dtype of the parameter.
class GradBuckets {
 public:
  /// Hooks into the gradients of `parameters`: leaves that require grad and have their final
  /// storage. `mesh` must outlive this. Throws `Error` for ranks that equal sums cannot have.
  GradBuckets(
      std::vector<at::Tensor> parameters,
      std::vector<std::string> names,
      const Mesh& mesh,
      const BucketConfig& config);
  ~GradBuckets();
  GradBuckets(const GradBuckets&) = delete;
  GradBuckets& operator=(const GradBuckets&) = delete;

  const BucketPlan& plan() const { return plan_; }

  /// Before the first of `microbatches` backward passes of this rank. What the step before left is
  /// dropped.
  void begin_step(std::int64_t microbatches);

  /// After the last backward pass: waits for the sums. Throws for a parameter that got no gradient,
  /// RunError when a rank is gone.
  void finish();

  /// The summed gradient of a slice that this rank owns: in the parameter's shape where it is
  /// whole, flat otherwise. Valid from `finish` to the next `begin_step`.
  at::Tensor gradient(const BucketSlice& slice) const;

  /// Bytes of gradient buffers that this rank holds now.
  std::int64_t num_bytes() const;

 private:
  struct Flat {
    std::vector<at::Tensor> sums; ///< [size] each: the main one, then partial sums of the tree
    std::size_t waiting = 0;      ///< parameters whose last gradient is to come
    Pending pending;
    at::Tensor received; ///< [ranks, shard] while pieces of a tree travel
  };

  void arrived(std::size_t parameter);
  void accumulate(std::size_t parameter, const at::Tensor& gradient);
  at::Tensor partial_sum(std::size_t parameter, std::size_t level);
  void start(std::size_t bucket);
  void complete(std::size_t bucket);
  at::Tensor own_shard(std::size_t bucket) const;

  std::vector<at::Tensor> parameters_;
  std::vector<std::string> names_;
  const Group& replicas_;
  std::int64_t num_dp_;
  std::int64_t num_cp_;
  bool tree_;
  BucketPlan plan_;
  std::vector<BucketSlice> place_;    // of each parameter
  std::vector<std::int64_t> arrived_; // microbatches of each parameter
  std::vector<Flat> flats_;
  std::int64_t microbatches_ = 0;
  bool in_place_ = false;
  std::size_t started_ = 0;
  std::size_t completed_ = 0;
};

} // namespace baton::parallel
