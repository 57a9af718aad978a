// SPDX-License-Identifier: Apache-2.0
// Parameters that stand side by side in flat buckets, so that ranks can give each other their
// shards.
#pragma once

#include <cstddef>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/parallel/bucket_plan.h"
#include "baton/parallel/group.h"

namespace baton::parallel {

/// Where several ranks hold the same parameters, each changes its own shard and all exchange them.
class FlatParameters {
 public:
  /// Moves `parameters` into buckets as `plan` says: the tensors stay, their storage changes. One
  /// rank alone keeps them where they are. `plan` and `replicas` must outlive this.
  FlatParameters(at::TensorList parameters, const BucketPlan& plan, const Group& replicas);

  /// Begins to give this rank's shard of a bucket to all, and to take theirs.
  void start_gather(std::size_t bucket);

  /// Until the parameters of all buckets are whole: on a GPU for the stream, not for the host.
  void wait();

 private:
  const BucketPlan& plan_;
  const Group& replicas_;
  std::vector<at::Tensor> flats_; // [size] of each bucket
  std::vector<Pending> pending_;
};

} // namespace baton::parallel
