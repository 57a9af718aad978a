// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/grad_buckets.h"

#include <bit>
#include <memory>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

// Buckets whose pieces travel at once in a tree: each holds a second buffer of its size.
constexpr std::size_t kMostTravelling = 2;

class OnGradient : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit OnGradient(std::function<void()> call) : call_(std::move(call)) {}
  void operator()(const at::Tensor& parameter) override { call_(); }

 private:
  std::function<void()> call_;
};

/// The sum of values [n, ...] over n, neighbours first.
at::Tensor sum_pairs(at::Tensor values) {
  while (values.size(0) > 1) {
    const std::int64_t pairs = values.size(0) / 2;
    at::Tensor sums = values.slice(0, 0, 2 * pairs, 2) + values.slice(0, 1, 2 * pairs, 2);
    if (values.size(0) % 2 != 0) {
      sums = at::cat({sums, values.slice(0, 2 * pairs)});
    }
    values = sums;
  }
  return values[0];
}

bool power_of_two(std::int64_t count) {
  return std::has_single_bit(static_cast<std::uint64_t>(count));
}

} // namespace

GradBuckets::GradBuckets(
    std::vector<at::Tensor> parameters,
    std::vector<std::string> names,
    const Mesh& mesh,
    const BucketConfig& config)
    : parameters_(std::move(parameters)),
      names_(std::move(names)),
      replicas_(mesh.replicas()),
      num_dp_(mesh.shape().along(Axis::kData)),
      num_cp_(mesh.shape().along(Axis::kContext)),
      tree_(config.same_sums),
      plan_(parameters_, replicas_.size(), config),
      place_(parameters_.size()),
      arrived_(parameters_.size()),
      flats_(plan_.buckets().size()) {
  for (const Bucket& bucket : plan_.buckets()) {
    for (const BucketSlice& whole : bucket.contents) {
      place_[whole.parameter] = whole;
    }
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        parameters_[i], std::make_unique<OnGradient>([this, i] { arrived(i); }));
  }
}

GradBuckets::~GradBuckets() {
  for (const at::Tensor& parameter : parameters_) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradBuckets::begin_step(std::int64_t microbatches) {
  if (tree_ && !power_of_two(microbatches)) {
    throw Error(
        "train.deterministic_reduce takes a power of two of microbatches on each rank: " +
        std::to_string(microbatches));
  }
  microbatches_ = microbatches;
  in_place_ = replicas_.alone() && microbatches == 1 && !tree_;
  started_ = completed_ = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].mutable_grad() = at::Tensor();
    arrived_[i] = 0;
  }
  for (std::size_t i = 0; i < flats_.size(); ++i) {
    flats_[i].waiting = plan_.buckets()[i].contents.size();
  }
}

void GradBuckets::arrived(std::size_t parameter) {
  const at::NoGradGuard no_grad;
  if (!in_place_) {
    at::Tensor& gradient = parameters_[parameter].mutable_grad();
    accumulate(parameter, gradient);
    gradient = at::Tensor();
  }
  if (++arrived_[parameter] < microbatches_) {
    return;
  }
  --flats_[place_[parameter].bucket].waiting;
  // In the order of the buckets, since all ranks must begin the same sum next.
  while (started_ < flats_.size() && flats_[started_].waiting == 0) {
    start(started_++);
  }
}

/// The place of a parameter in a partial sum, in the parameter's shape.
at::Tensor GradBuckets::partial_sum(std::size_t parameter, std::size_t level) {
  const BucketSlice& place = place_[parameter];
  const Bucket& bucket = plan_.buckets()[place.bucket];
  std::vector<at::Tensor>& sums = flats_[place.bucket].sums;
  while (sums.size() <= level) {
    const at::ScalarType dtype = bucket.dtype == at::kDouble ? at::kDouble : at::kFloat;
    sums.push_back(at::zeros({bucket.size}, parameters_[parameter].options().dtype(dtype)));
  }
  return sums[level].narrow(0, place.offset, place.length).view(parameters_[parameter].sizes());
}

// In a tree this is a binary counter: a partial sum for each bit of the count of microbatches, the
// largest first, and two of one size are added at once. Otherwise one sum takes them in their
// order.
void GradBuckets::accumulate(std::size_t parameter, const at::Tensor& gradient) {
  auto count = static_cast<std::uint64_t>(arrived_[parameter]);
  if (count == 0) {
    partial_sum(parameter, 0).copy_(gradient);
    return;
  }
  if (!tree_) {
    partial_sum(parameter, 0).add_(gradient);
    return;
  }
  auto top = static_cast<std::size_t>(std::popcount(count));
  if (count % 2 == 0) {
    partial_sum(parameter, top).copy_(gradient);
    return;
  }
  partial_sum(parameter, --top).add_(gradient);
  for (count /= 2; count % 2 != 0; count /= 2, --top) {
    partial_sum(parameter, top - 1).add_(partial_sum(parameter, top));
  }
}

at::Tensor GradBuckets::own_shard(std::size_t bucket) const {
  const std::int64_t size = plan_.shard_size(bucket);
  return flats_[bucket].sums.front().narrow(0, replicas_.rank() * size, size);
}

void GradBuckets::start(std::size_t bucket) {
  if (replicas_.alone()) {
    return;
  }
  Flat& flat = flats_[bucket];
  if (!tree_) {
    flat.pending = replicas_.start_reduce_scatter(flat.sums.front(), own_shard(bucket));
    return;
  }
  while (bucket - completed_ >= kMostTravelling) {
    complete(completed_++);
  }
  const std::int64_t size = plan_.shard_size(bucket);
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(replicas_.size()), 1);
  flat.received = at::empty({replicas_.size(), size}, flat.sums.front().options());
  flat.pending = replicas_.start_all_to_all(
      flat.sums.front().view({replicas_.size(), size}), flat.received, counts, counts);
}

void GradBuckets::complete(std::size_t bucket) {
  Flat& flat = flats_[bucket];
  flat.pending.wait();
  if (flat.received.defined()) {
    // Over dp first, as if one rank had had all microbatches.
    const at::Tensor pieces = flat.received.view({num_dp_, num_cp_, -1});
    own_shard(bucket).copy_(sum_pairs(sum_pairs(pieces)));
    flat.received = at::Tensor();
  }
}

void GradBuckets::finish() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    TORCH_CHECK(
        arrived_[i] == microbatches_,
        "parameter '",
        names_[i],
        "' has no gradient: the loss does not depend on it, or no backward pass ran");
  }
  while (completed_ < flats_.size()) {
    complete(completed_++);
  }
}

at::Tensor GradBuckets::gradient(const BucketSlice& slice) const {
  const at::Tensor& parameter = parameters_[slice.parameter];
  const bool whole = slice.length == parameter.numel();
  if (in_place_) {
    const at::Tensor& gradient = parameter.grad();
    return whole ? gradient : gradient.reshape({-1}).narrow(0, slice.begin, slice.length);
  }
  const at::Tensor values = flats_[slice.bucket].sums.front().narrow(0, slice.offset, slice.length);
  return whole ? values.view(parameter.sizes()) : values;
}

std::int64_t GradBuckets::num_bytes() const {
  std::int64_t bytes = 0;
  for (const Flat& flat : flats_) {
    for (const at::Tensor& sum : flat.sums) {
      bytes += static_cast<std::int64_t>(sum.nbytes());
    }
  }
  return bytes;
}

} // namespace baton::parallel
