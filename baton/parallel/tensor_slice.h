// SPDX-License-Identifier: Apache-2.0
// The part of a tensor that one rank holds where it is cut without regard to its dims.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::parallel {

/// Consecutive values of a tensor in row-major order.
struct TensorSlice {
  TensorSlice() = default;
  TensorSlice(const at::Tensor& whole) : values(whole), shape(whole.sizes().vec()) {} // NOLINT
  TensorSlice(at::Tensor part, at::IntArrayRef whole_shape, std::int64_t first)
      : values(std::move(part)), shape(whole_shape.vec()), begin(first) {}

  bool whole() const { return values.sizes() == shape; }

  at::Tensor values;               ///< of the tensor's shape where it is whole, else [n]
  std::vector<std::int64_t> shape; ///< of the tensor
  std::int64_t begin = 0;          ///< of the first value, in the flattened tensor
};

using TensorSlices = std::map<std::string, TensorSlice>;

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
