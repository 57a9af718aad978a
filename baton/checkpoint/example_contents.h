// SPDX-License-Identifier: Apache-2.0
// For tests: the contents of a small checkpoint, every value a function of the step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <ATen/ATen.h>

#include "baton/checkpoint/load.h"
#include "baton/checkpoint/save.h"

namespace baton::checkpoint {

inline CheckpointContents example_contents(std::int64_t step) {
  const auto fill = [&](at::IntArrayRef shape, at::ScalarType dtype) {
    return at::full(shape, static_cast<double>(step % 100), dtype);
  };
  CheckpointContents contents;
  contents.step = step;
  contents.program = "0.0.0";
  contents.parameters["embedding.weight"] = fill({50, 16}, at::kBFloat16);
  contents.parameters["layers.0.mixer.A_log"] = fill({4}, at::kFloat);
  contents.parameters["scalar"] = fill({}, at::kFloat);
  contents.optimizer_states["embedding.weight.first_moment"] = fill({50, 16}, at::kFloat);
  contents.optimizer_states["layers.0.mixer.A_log.first_moment"] = fill({4}, at::kDouble);
  contents.train_state = {{"step", step}, {"position", {{"document", 3 * step}}}};
  contents.recipe = "[train]\nsteps = " + std::to_string(step) + "\n";
  return contents;
}

/// Whether every value of the checkpoint is that of its step.
inline bool is_example(const Checkpoint& checkpoint) {
  const CheckpointContents expected = example_contents(checkpoint.step());
  const auto values_of = [](const parallel::TensorSlices& slices) {
    TensorMap values;
    for (const auto& [name, slice] : slices) {
      values[name] = slice.pieces.front().values;
    }
    return values;
  };
  const auto others_like = [](const TensorMap& tensors) {
    TensorMap others;
    for (const auto& [name, tensor] : tensors) {
      others[name] = at::full_like(tensor, -1);
    }
    return others;
  };
  const auto equal = [](const TensorMap& a, const TensorMap& b) {
    for (const auto& [name, tensor] : a) {
      if (!at::equal(tensor, b.at(name))) {
        return false;
      }
    }
    return true;
  };
  const TensorMap parameters = others_like(values_of(expected.parameters));
  const TensorMap states = others_like(values_of(expected.optimizer_states));
  checkpoint.read_parameters(parameters);
  checkpoint.read_optimizer_states(parallel::slices_of(states));
  return equal(values_of(expected.parameters), parameters) &&
         equal(values_of(expected.optimizer_states), states) &&
         checkpoint.train_state() == expected.train_state &&
         checkpoint.recipe() == expected.recipe && checkpoint.manifest().program == "0.0.0";
}

} // namespace baton::checkpoint
