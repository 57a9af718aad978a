// SPDX-License-Identifier: Apache-2.0
// How tensor parallelism divides a parameter, and what of it each rank holds.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::nn {

/// A stretch of the dim that is divided, on its own.
struct CutPart {
  std::int64_t size = 0;
  /// Equal blocks that stay whole: heads, or groups. 0: every value is one. Where there are fewer
  /// blocks than ranks, which must then be a multiple, neighbouring ranks hold the same block.
  std::int64_t blocks = 0;
};

/// `dim` -1 means every rank holds all of it. A packed dim (in_proj holds z, x, B, C, dt) lists its
/// parts; without any the dim is one part of single values.
struct ParameterCut {
  int dim = -1;
  std::vector<CutPart> parts;
};

/// A rectangle of a parameter, and where a rank that holds it has it.
struct ParameterPiece {
  std::vector<std::int64_t> start; ///< in the parameter
  std::vector<std::int64_t> shape;
  int dim = -1;           ///< along which the rank's values are pieces, -1: they are this one
  std::int64_t first = 0; ///< of its rows along `dim` in the rank's values
  int holders = 1;        ///< ranks that hold the same rectangle
  int holder = 0;         ///< this rank among them; 0 is the one that writes it

  /// The piece of this rank's `values`, a view.
  at::Tensor of(const at::Tensor& values) const;
  /// The same rectangle of the whole parameter, a view.
  at::Tensor of_whole(const at::Tensor& whole) const;
};

/// A stretch of flattened values.
struct FlatRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Adds a stretch to others, joined to the last of them where it follows on it.
void add_range(std::vector<FlatRange>& ranges, const FlatRange& range);

/// Where a piece lies in a rank's flattened values of that shape, in as few stretches as can be.
std::vector<FlatRange> flat_ranges(const ParameterPiece& piece, at::IntArrayRef own_shape);

/// What rank `rank` of `ranks` holds of a parameter of this shape, in the order of its values.
std::vector<ParameterPiece>
pieces_of(at::IntArrayRef shape, const ParameterCut& cut, int rank, int ranks);

/// A rank's values of a whole parameter; the parameter itself where there is one rank.
at::Tensor own_values(const at::Tensor& whole, const ParameterCut& cut, int rank, int ranks);

/// Their shape.
std::vector<std::int64_t>
own_shape(at::IntArrayRef shape, const ParameterCut& cut, int rank, int ranks);

} // namespace baton::nn
