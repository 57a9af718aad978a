// SPDX-License-Identifier: Apache-2.0
// What one rank holds of a whole model's parameters, and which values are its to write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/model/hybrid_model.h"
#include "baton/parallel/tensor_slice.h"

namespace baton::model {

/// Of the ranks that differ along tp and pp. Each value of the whole model is written, and counted
/// in norms, by one of them: the first of those that hold it along tp, and of tied ends the first
/// stage. Ranks that differ along dp and cp hold the same.
class ModelShare {
 public:
  /// `model` must outlive this.
  explicit ModelShare(const HybridModel& model);

  /// All parameters of the whole model, without values.
  const std::deque<nn::Parameter>& whole() const { return whole_.parameters().parameters(); }
  std::int64_t num_values() const { return whole_.parameters().num_values(); } ///< of all ranks

  /// Those of this rank.
  const std::deque<nn::Parameter>& own() const { return model_.parameters().parameters(); }

  /// The place among `whole()` of the parameter that is number `parameter` of this rank.
  std::size_t place_in_whole(std::size_t parameter) const { return places_[parameter]; }

  /// The dtype of a parameter's values.
  at::ScalarType dtype_of(const nn::Parameter& parameter) const;

  /// Values of a parameter (or of what belongs to each of them) from number `begin` of this rank's
  /// on, flat or in the parameter's shape, as rectangles of the whole parameter.
  parallel::TensorSlice held(std::size_t parameter, const at::Tensor& values, std::int64_t begin)
      const;

  /// Those among them that this rank writes.
  parallel::TensorSlice written(std::size_t parameter, const at::Tensor& values, std::int64_t begin)
      const;

  /// Where they are among this rank's flattened values.
  std::vector<nn::FlatRange> written_ranges(std::size_t parameter) const;

 private:
  std::vector<nn::ParameterPiece> written_pieces(std::size_t parameter) const;
  parallel::TensorSlice slice_of(
      const nn::Parameter& parameter,
      const std::vector<nn::ParameterPiece>& pieces,
      const at::Tensor& values,
      std::int64_t begin) const;

  const HybridModel& model_;
  HybridModel whole_; // declared only
  std::vector<std::size_t> places_;
};

} // namespace baton::model
