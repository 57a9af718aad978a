// SPDX-License-Identifier: Apache-2.0
#include "baton/train/run_tensors.h"

#include <string>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace baton::train {

parallel::TensorSlices held_parameters(const model::ModelShare& share) {
  parallel::TensorSlices slices;
  for (std::size_t i = 0; i < share.own().size(); ++i) {
    const nn::Parameter& parameter = share.own()[i];
    slices.emplace(parameter.spec.name, share.held(i, parameter.value.detach(), 0));
  }
  // A reader knows all names.
  for (const nn::Parameter& other : share.whole()) {
    slices.try_emplace(other.spec.name, share.dtype_of(other), other.spec.shape);
  }
  return slices;
}

parallel::TensorSlices written_parameters(
    const model::ModelShare& share,
    const std::vector<parallel::BucketSlice>& owned) {
  parallel::TensorSlices slices;
  for (const parallel::BucketSlice& slice : owned) {
    if (slice.begin == 0) {
      const nn::Parameter& parameter = share.own()[slice.parameter];
      slices.emplace(
          parameter.spec.name, share.written(slice.parameter, parameter.value.detach(), 0));
    }
  }
  return slices;
}

parallel::TensorSlices held_states(const model::ModelShare& share, const AdamW& optimizer) {
  parallel::TensorSlices slices;
  for (const OptimizerState& state : optimizer.states()) {
    slices.emplace(
        share.own()[state.parameter].spec.name + "." + state.kind,
        share.held(state.parameter, state.values, state.begin));
  }
  for (const nn::Parameter& other : share.whole()) {
    for (const auto& [kind, dtype] : optimizer.kinds_of(share.dtype_of(other))) {
      slices.try_emplace(other.spec.name + "." + kind, dtype, other.spec.shape);
    }
  }
  return slices;
}

parallel::TensorSlices written_states(const model::ModelShare& share, const AdamW& optimizer) {
  parallel::TensorSlices slices;
  for (const OptimizerState& state : optimizer.states()) {
    slices.emplace(
        share.own()[state.parameter].spec.name + "." + state.kind,
        share.written(state.parameter, state.values, state.begin));
  }
  return slices;
}

void read_start_values(const model::ModelShare& share, const ModelSource& source) {
  std::map<std::string, at::Tensor> whole;
  for (const nn::Parameter& parameter : share.whole()) {
    whole[parameter.spec.name] = at::empty(parameter.spec.shape, share.dtype_of(parameter));
  }
  for (const auto& [name, slice] : held_parameters(share)) {
    if (slice.whole()) {
      whole[name] = slice.pieces.front().values;
    }
  }
  source.read_parameters(whole);
  const at::NoGradGuard no_grad;
  for (const auto& [name, slice] : held_parameters(share)) {
    if (slice.whole()) {
      continue; // read in its place
    }
    for (const parallel::TensorPiece& piece : slice.pieces) {
      at::Tensor from = whole.at(name);
      for (std::size_t dim = 0; dim < piece.start.size(); ++dim) {
        const auto at_dim = static_cast<std::int64_t>(dim);
        from = from.narrow(at_dim, piece.start[dim], piece.values.size(at_dim));
      }
      piece.values.copy_(from);
    }
  }
}

} // namespace baton::train
