// SPDX-License-Identifier: Apache-2.0
#include "baton/train/step_sums.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "baton/train/optimizer.h"

namespace baton::train {

StepReduction::StepReduction(
    const parallel::GradBuckets& gradients,
    const parallel::Group& replicas)
    : gradients_(gradients),
      replicas_(replicas),
      cells_(gradients.plan().cells_of(replicas.rank())) {
  std::vector<std::int64_t> places;
  for (const parallel::SquaresCell& cell : cells_) {
    places.push_back(static_cast<std::int64_t>(cell.place));
  }
  places_ = at::tensor(places, at::kLong);
}

at::Tensor StepReduction::own_squares(c10::Device device) const {
  const auto count = static_cast<std::int64_t>(gradients_.plan().parameter_of_place().size());
  at::Tensor all = at::zeros({count}, at::TensorOptions(at::kDouble).device(device));
  std::vector<at::Tensor> values;
  for (const parallel::SquaresCell& cell : cells_) {
    values.push_back(gradients_.gradient(cell.slice));
  }
  if (!values.empty()) {
    all.index_copy_(0, places_.to(device), squares_of(values));
  }
  return all;
}

/// Adds the places of each parameter in their order.
at::Tensor StepReduction::squares_by_parameter(const at::Tensor& places) const {
  const std::vector<std::size_t>& parameters = gradients_.plan().parameter_of_place();
  const std::size_t most =
      parameters.empty() ? 0 : *std::max_element(parameters.begin(), parameters.end()) + 1;
  at::Tensor squares = at::zeros({static_cast<std::int64_t>(most)}, at::kDouble);
  const double* from = places.const_data_ptr<double>();
  double* sums = squares.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    sums[parameters[i]] += from[i];
  }
  return squares;
}

StepSums StepReduction::sum(const StepParts& parts) const {
  const at::NoGradGuard no_grad;
  const auto own = static_cast<std::int64_t>(parts.losses.size());
  const at::Tensor own_losses = at::stack(parts.losses);
  at::Tensor losses = at::zeros({parts.microbatches}, own_losses.options());
  losses.narrow(0, parts.first, own).copy_(own_losses);
  const at::Tensor stop = at::full({1}, parts.stop ? 1.0 : 0.0, own_losses.options());
  const at::Tensor sums = at::cat({losses, stop, own_squares(own_losses.device())});
  replicas_.all_reduce_(sums);
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

} // namespace baton::train
