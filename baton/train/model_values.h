// SPDX-License-Identifier: Apache-2.0
// How many values the parts of a model hold.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/nn/parameter.h"

namespace baton::train {

/// Values of a part of the model, by whether tensor parallelism divides them and whether they stay
/// fp32 in a bf16 model.
struct PartValues {
  double cut = 0.0;
  double whole = 0.0;
  double cut_fp32 = 0.0;
  double whole_fp32 = 0.0;

  PartValues& operator+=(const PartValues& other);
  double total() const { return cut + whole + cut_fp32 + whole_fp32; }
  /// On one of `tp` ranks: in the model's dtype, and those that stay fp32.
  double narrow(double tp) const { return cut / tp + whole; }
  double wide(double tp) const { return cut_fp32 / tp + whole_fp32; }
};

/// Values by the layer that holds them.
struct ModelValues {
  std::vector<PartValues> layers;
  PartValues embedding;
  PartValues head; ///< with the final norm; without the matrix where that is the embedding's

  double total() const;
};

/// Counts what a model has declared; it needs no values.
ModelValues count_values(const nn::ParameterStore& parameters, std::int64_t num_layers);

} // namespace baton::train
