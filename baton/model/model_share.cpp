// SPDX-License-Identifier: Apache-2.0
#include "baton/model/model_share.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

namespace baton::model {

ModelShare::ModelShare(const HybridModel& model) : model_(model), whole_(model.config()) {
  std::unordered_map<std::string, std::size_t> places;
  for (const nn::Parameter& parameter : whole()) {
    places.emplace(parameter.spec.name, places.size());
  }
  for (const nn::Parameter& parameter : own()) {
    places_.push_back(places.at(parameter.spec.name));
  }
}

at::ScalarType ModelShare::dtype_of(const nn::Parameter& parameter) const {
  return nn::storage_dtype(parameter.spec, model_.config().scalar_type());
}

std::vector<nn::ParameterPiece> ModelShare::written_pieces(std::size_t parameter) const {
  const nn::Parameter& own_one = own()[parameter];
  if (model_.shared_matrix() == &own_one && !model_.holds_first_stage()) {
    return {};
  }
  std::vector<nn::ParameterPiece> pieces = model_.parameters().pieces_of(own_one.spec);
  std::erase_if(pieces, [](const nn::ParameterPiece& piece) { return piece.holder != 0; });
  return pieces;
}

// A rectangle of this rank's values meets a piece along the dim that is cut, if any.
parallel::TensorSlice ModelShare::slice_of(
    const nn::Parameter& parameter,
    const std::vector<nn::ParameterPiece>& pieces,
    const at::Tensor& values,
    std::int64_t begin) const {
  const at::Tensor flat = values.view({-1});
  parallel::TensorSlice slice(values.scalar_type(), parameter.spec.shape);
  for (const parallel::TensorBlock& block :
       parallel::blocks_of(parameter.value.sizes(), begin, flat.numel())) {
    const at::Tensor rectangle = flat.narrow(0, block.offset, block.length).view(block.shape);
    for (const nn::ParameterPiece& piece : pieces) {
      parallel::TensorPiece part{block.start, rectangle};
      if (piece.dim >= 0) {
        const auto dim = static_cast<std::size_t>(piece.dim);
        const std::int64_t from = std::max(block.start[dim], piece.first);
        const std::int64_t to =
            std::min(block.start[dim] + block.shape[dim], piece.first + piece.shape[dim]);
        if (from >= to) {
          continue;
        }
        part.start[dim] = piece.start[dim] + from - piece.first;
        part.values = rectangle.narrow(piece.dim, from - block.start[dim], to - from);
      }
      slice.pieces.push_back(std::move(part));
    }
  }
  return slice;
}

parallel::TensorSlice
ModelShare::held(std::size_t parameter, const at::Tensor& values, std::int64_t begin) const {
  const nn::Parameter& own_one = own()[parameter];
  return slice_of(own_one, model_.parameters().pieces_of(own_one.spec), values, begin);
}

parallel::TensorSlice
ModelShare::written(std::size_t parameter, const at::Tensor& values, std::int64_t begin) const {
  return slice_of(own()[parameter], written_pieces(parameter), values, begin);
}

std::vector<nn::FlatRange> ModelShare::written_ranges(std::size_t parameter) const {
  std::vector<nn::FlatRange> ranges;
  for (const nn::ParameterPiece& piece : written_pieces(parameter)) {
    for (const nn::FlatRange& range : nn::flat_ranges(piece, own()[parameter].value.sizes())) {
      nn::add_range(ranges, range);
    }
  }
  return ranges;
}

} // namespace baton::model
