// SPDX-License-Identifier: Apache-2.0
// The part of a tensor that one rank holds, as rectangles of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::parallel {

/// A rectangle of a tensor.
struct TensorPiece {
  std::vector<std::int64_t> start; ///< in the tensor
  at::Tensor values;               ///< a view of the rectangle's shape, with any strides
};

/// What a rank holds of a tensor: any rectangles of it, none too.
struct TensorSlice {
  TensorSlice() = default;
  TensorSlice(const at::Tensor& whole); // NOLINT
  /// Consecutive values [n] in row-major order, from number `first` of the tensor on.
  TensorSlice(const at::Tensor& values, at::IntArrayRef whole_shape, std::int64_t first);
  /// Nothing of it.
  TensorSlice(at::ScalarType of_dtype, at::IntArrayRef whole_shape)
      : dtype(of_dtype), shape(whole_shape.vec()) {}

  bool whole() const { return pieces.size() == 1 && pieces.front().values.sizes() == shape; }

  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape; ///< of the tensor
  std::vector<TensorPiece> pieces;
};

using TensorSlices = std::map<std::string, TensorSlice>;

/// Whole tensors by name.
TensorSlices slices_of(const std::map<std::string, at::Tensor>& tensors);

/// A rectangle of a tensor whose values follow each other in memory.
struct TensorBlock {
  std::vector<std::int64_t> start;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0; ///< of its first value from the slice's
  std::int64_t length = 0; ///< values
};

/// A slice as rectangles in its order: at most two for each dim but the last, and one more.
std::vector<TensorBlock> blocks_of(at::IntArrayRef shape, std::int64_t begin, std::int64_t length);

} // namespace baton::parallel
