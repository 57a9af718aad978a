// SPDX-License-Identifier: Apache-2.0
#include "baton/train/step_sums.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "baton/train/optimizer.h"

namespace baton::train {
namespace {

using parallel::Axis;

/// The part of a slice in a stretch of its parameter's values; empty where there is none.
parallel::BucketSlice within(const parallel::BucketSlice& slice, const nn::FlatRange& range) {
  parallel::BucketSlice part = slice;
  part.begin = std::max(slice.begin, range.begin);
  part.offset = slice.offset + part.begin - slice.begin;
  part.length =
      std::max<std::int64_t>(0, std::min(slice.begin + slice.length, range.end) - part.begin);
  return part;
}

} // namespace

StepReduction::StepReduction(
    const parallel::GradBuckets& gradients,
    const model::ModelShare& share,
    const parallel::Mesh& mesh,
    c10::Device device)
    : gradients_(gradients), share_(share), mesh_(mesh), device_(device) {
  make_cells();
  exchange_places();
}

void StepReduction::make_cells() {
  for (const parallel::SquaresCell& cell : gradients_.plan().cells_of(mesh_.replicas().rank())) {
    Cell own{.slices = {}, .place = cell.place};
    for (const nn::FlatRange& range : share_.written_ranges(cell.slice.parameter)) {
      const parallel::BucketSlice part = within(cell.slice, range);
      if (part.length > 0) {
        own.slices.push_back(part);
      }
    }
    if (!own.slices.empty()) {
      cells_.push_back(std::move(own));
    }
  }
}

// Every rank along tp and pp has places of its own, since it has parameters of its own.
void StepReduction::exchange_places() {
  std::vector<std::int64_t> own;
  for (const std::size_t parameter : gradients_.plan().parameter_of_place()) {
    own.push_back(static_cast<std::int64_t>(share_.place_in_whole(parameter)));
  }
  const auto on_device = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(values, at::kLong).to(device_);
  };
  const at::Tensor counts =
      mesh_.all().all_gather(on_device({static_cast<std::int64_t>(own.size())})).cpu();
  own.resize(static_cast<std::size_t>(counts.max().item<std::int64_t>()));
  const at::Tensor places = mesh_.all().all_gather(on_device(own)).cpu();
  const parallel::MeshShape& shape = mesh_.shape();
  for (int rank = 0; rank < shape.size(); ++rank) {
    if (shape.coordinate(Axis::kData, rank) > 0 || shape.coordinate(Axis::kContext, rank) > 0) {
      continue;
    }
    if (shape.coordinate(Axis::kTensor, rank) == mesh_.coordinate(Axis::kTensor) &&
        shape.coordinate(Axis::kPipeline, rank) == mesh_.coordinate(Axis::kPipeline)) {
      first_place_ = static_cast<std::int64_t>(parameter_of_place_.size());
    }
    const auto* first = places[rank].const_data_ptr<std::int64_t>();
    parameter_of_place_.insert(
        parameter_of_place_.end(), first, first + counts[rank].item<std::int64_t>());
  }
}

at::Tensor StepReduction::own_squares() const {
  std::vector<at::Tensor> values;
  std::vector<std::int64_t> slices; // of each cell
  std::vector<std::int64_t> places;
  for (const Cell& cell : cells_) {
    for (const parallel::BucketSlice& slice : cell.slices) {
      values.push_back(gradients_.gradient(slice));
    }
    slices.push_back(static_cast<std::int64_t>(cell.slices.size()));
    places.push_back(first_place_ + static_cast<std::int64_t>(cell.place));
  }
  const auto count = static_cast<std::int64_t>(parameter_of_place_.size());
  at::Tensor all = at::zeros({count}, at::TensorOptions(at::kDouble).device(device_));
  if (values.empty()) {
    return all;
  }
  at::Tensor squares = squares_of(values);
  if (values.size() > cells_.size()) {
    std::vector<at::Tensor> sums;
    for (const at::Tensor& of_cell : squares.split_with_sizes(slices)) {
      sums.push_back(of_cell.sum());
    }
    squares = at::stack(sums);
  }
  all.index_copy_(0, at::tensor(places, at::kLong).to(device_), squares);
  return all;
}

/// Adds the places of each parameter in their order.
at::Tensor StepReduction::squares_by_parameter(const at::Tensor& places) const {
  at::Tensor squares = at::zeros({static_cast<std::int64_t>(share_.whole().size())}, at::kDouble);
  const double* from = places.const_data_ptr<double>();
  double* sums = squares.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < parameter_of_place_.size(); ++i) {
    sums[parameter_of_place_[i]] += from[i];
  }
  return squares;
}

StepSums StepReduction::sum(const StepParts& parts) const {
  const at::NoGradGuard no_grad;
  const auto own = static_cast<std::int64_t>(parts.losses.size());
  const at::Tensor own_losses = at::stack(parts.losses);
  at::Tensor losses = at::zeros({parts.microbatches}, own_losses.options());
  if (mesh_.coordinate(Axis::kTensor) == 0) { // all along tp have the same loss
    losses.narrow(0, parts.first, own).copy_(own_losses);
  }
  const at::Tensor stop = at::full({1}, parts.stop ? 1.0 : 0.0, own_losses.options());
  const at::Tensor sums = at::cat({losses, stop, own_squares()});
  mesh_.all().all_reduce_(sums);
  const at::Tensor measured = sums.cpu();
  const double* values = measured.const_data_ptr<double>();
  StepSums result;
  for (std::int64_t i = 0; i < parts.microbatches; ++i) {
    result.loss += values[i];
  }
  result.stop = values[parts.microbatches] > 0.0;
  result.squares = squares_by_parameter(measured.slice(0, parts.microbatches + 1));
  return result;
}

double StepReduction::checked_norm(const StepSums& sums) const {
  const double* squares = sums.squares.const_data_ptr<double>();
  const std::size_t count = share_.whole().size();
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(squares[i])) {
      report_bad_values(i);
    }
  }
  return std::sqrt(std::accumulate(squares, squares + count, 0.0));
}

void StepReduction::report_bad_values(std::size_t parameter) const {
  at::Tensor counts = at::zeros({2}, at::TensorOptions(at::kDouble).device(device_));
  for (const Cell& cell : cells_) {
    for (const parallel::BucketSlice& slice : cell.slices) {
      if (share_.place_in_whole(slice.parameter) == parameter) {
        const at::Tensor gradient = gradients_.gradient(slice);
        counts += at::stack({gradient.isnan().sum(), gradient.isinf().sum()});
      }
    }
  }
  mesh_.all().all_reduce_(counts);
  const auto count = [&](int i) { return static_cast<std::int64_t>(counts[i].item<double>()); };
  const nn::ParameterSpec& bad = share_.whole()[parameter].spec;
  refuse_gradient(bad.name, count(0), count(1), c10::multiply_integers(bad.shape));
}

} // namespace baton::train
