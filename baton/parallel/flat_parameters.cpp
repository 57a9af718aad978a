// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/flat_parameters.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace baton::parallel {

FlatParameters::FlatParameters(
    at::TensorList parameters,
    const BucketPlan& plan,
    const Group& replicas)
    : plan_(plan), replicas_(replicas) {
  if (replicas.alone()) {
    return;
  }
  const at::NoGradGuard no_grad;
  for (const Bucket& bucket : plan.buckets()) {
    const at::TensorOptions options = parameters[bucket.contents.front().parameter].options();
    at::Tensor flat = at::zeros({bucket.size}, options.requires_grad(false));
    for (const BucketSlice& whole : bucket.contents) {
      const at::Tensor& parameter = parameters[whole.parameter];
      const at::Tensor place = flat.narrow(0, whole.offset, whole.length).view(parameter.sizes());
      place.copy_(parameter);
      parameter.set_data(place);
    }
    flats_.push_back(flat);
  }
}

void FlatParameters::start_gather(std::size_t bucket) {
  if (replicas_.alone()) {
    return;
  }
  const std::int64_t size = plan_.shard_size(bucket);
  const at::Tensor own = flats_[bucket].narrow(0, replicas_.rank() * size, size);
  pending_.push_back(replicas_.start_all_gather(own, flats_[bucket]));
}

void FlatParameters::wait() {
  for (Pending& pending : pending_) {
    pending.wait();
  }
  pending_.clear();
}

} // namespace baton::parallel
