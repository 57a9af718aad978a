// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/parameter_cut.h"

#include <ATen/ATen.h>

#include "baton/parallel/tensor_rows.h"

namespace baton::nn {
namespace {

/// What a rank holds of a part's blocks.
struct Blocks {
  parallel::Share share;
  int holders = 1;
};

Blocks blocks_of(std::int64_t blocks, int rank, int ranks) {
  if (blocks >= ranks) {
    return {.share = parallel::even_share(blocks, rank, ranks)};
  }
  TORCH_INTERNAL_ASSERT(
      blocks > 0 && ranks % blocks == 0, "cannot divide ", blocks, " blocks among ", ranks);
  const auto holders = static_cast<int>(ranks / blocks);
  return {.share = {.first = rank / holders, .count = 1}, .holders = holders};
}

} // namespace

at::Tensor ParameterPiece::of(const at::Tensor& values) const {
  return dim < 0 ? values : values.narrow(dim, first, shape[static_cast<std::size_t>(dim)]);
}

at::Tensor ParameterPiece::of_whole(const at::Tensor& whole) const {
  const auto at_dim = static_cast<std::size_t>(dim);
  return dim < 0 ? whole : whole.narrow(dim, start[at_dim], shape[at_dim]);
}

void add_range(std::vector<FlatRange>& ranges, const FlatRange& range) {
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

std::vector<FlatRange> flat_ranges(const ParameterPiece& piece, at::IntArrayRef own_shape) {
  if (piece.dim < 0) {
    return {{0, c10::multiply_integers(own_shape)}};
  }
  const auto dim = static_cast<std::size_t>(piece.dim);
  const std::int64_t row = c10::multiply_integers(own_shape.slice(dim + 1));
  const std::int64_t block = own_shape[dim] * row;
  const std::int64_t blocks = c10::multiply_integers(own_shape.slice(0, dim));
  std::vector<FlatRange> ranges;
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::int64_t begin = i * block + piece.first * row;
    add_range(ranges, {begin, begin + piece.shape[dim] * row});
  }
  return ranges;
}

std::vector<ParameterPiece>
pieces_of(at::IntArrayRef shape, const ParameterCut& cut, int rank, int ranks) {
  const std::vector<std::int64_t> origin(shape.size(), 0);
  if (cut.dim < 0 || ranks == 1) {
    return {{.start = origin, .shape = shape.vec(), .holders = ranks, .holder = rank}};
  }
  const auto dim = static_cast<std::size_t>(cut.dim);
  const std::vector<CutPart> parts =
      cut.parts.empty() ? std::vector<CutPart>{{.size = shape[dim]}} : cut.parts;
  std::vector<ParameterPiece> pieces;
  pieces.reserve(parts.size());
  std::int64_t part_first = 0;
  std::int64_t own_first = 0;
  for (const CutPart& part : parts) {
    const std::int64_t blocks = part.blocks == 0 ? part.size : part.blocks;
    const std::int64_t width = part.size / blocks;
    const Blocks own = blocks_of(blocks, rank, ranks);
    ParameterPiece piece{
        .start = origin,
        .shape = shape.vec(),
        .dim = cut.dim,
        .first = own_first,
        .holders = own.holders,
        .holder = rank % own.holders};
    piece.start[dim] = part_first + own.share.first * width;
    piece.shape[dim] = own.share.count * width;
    own_first += piece.shape[dim];
    part_first += part.size;
    pieces.push_back(std::move(piece));
  }
  TORCH_INTERNAL_ASSERT(part_first == shape[dim], "a cut's parts must make up its dim");
  return pieces;
}

at::Tensor own_values(const at::Tensor& whole, const ParameterCut& cut, int rank, int ranks) {
  if (cut.dim < 0 || ranks == 1) {
    return whole;
  }
  const std::vector<ParameterPiece> pieces = pieces_of(whole.sizes(), cut, rank, ranks);
  std::vector<at::Tensor> values;
  values.reserve(pieces.size());
  for (const ParameterPiece& piece : pieces) {
    values.push_back(piece.of_whole(whole));
  }
  return at::cat(values, cut.dim);
}

std::vector<std::int64_t>
own_shape(at::IntArrayRef shape, const ParameterCut& cut, int rank, int ranks) {
  const std::vector<ParameterPiece> pieces = pieces_of(shape, cut, rank, ranks);
  std::vector<std::int64_t> own = shape.vec();
  if (pieces.front().dim >= 0) {
    const auto dim = static_cast<std::size_t>(cut.dim);
    own[dim] = pieces.back().first + pieces.back().shape[dim];
  }
  return own;
}

} // namespace baton::nn
