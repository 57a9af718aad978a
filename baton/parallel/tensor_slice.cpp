// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/tensor_slice.h"

namespace baton::parallel {
namespace {

class Cutter {
 public:
  explicit Cutter(at::IntArrayRef shape) : shape_(shape) {}

  /// Adds what [begin, end) holds of the values below `dim`, at the rows `above` of the dims
  /// before.
  void cut(std::vector<std::int64_t> above, std::int64_t begin, std::int64_t end) {
    const std::size_t dim = above.size();
    if (dim == shape_.size()) {
      add(above, 0, 0);
      return;
    }
    const std::int64_t row = c10::multiply_integers(shape_.slice(dim + 1));
    const auto cut_row = [&](std::int64_t index, std::int64_t first, std::int64_t last) {
      std::vector<std::int64_t> rows = above;
      rows.push_back(index);
      cut(std::move(rows), first, last);
    };
    const std::int64_t first = begin / row;
    if (begin % row != 0) {
      const std::int64_t last = std::min(end - first * row, row);
      cut_row(first, begin % row, last);
      begin = first * row + last;
    }
    const std::int64_t whole = (end - begin) / row;
    if (whole > 0) {
      add(above, begin / row, whole);
      begin += whole * row;
    }
    if (begin < end) {
      cut_row(begin / row, 0, end - begin);
    }
  }

  std::vector<TensorBlock> take() { return std::move(blocks_); }

 private:
  // `count` rows of the dim behind `above`, from `first` on.
  void add(const std::vector<std::int64_t>& above, std::int64_t first, std::int64_t count) {
    TensorBlock block{above, std::vector<std::int64_t>(above.size(), 1), offset_, 0};
    if (above.size() < shape_.size()) {
      block.start.push_back(first);
      block.shape.push_back(count);
      for (std::size_t dim = above.size() + 1; dim < shape_.size(); ++dim) {
        block.start.push_back(0);
        block.shape.push_back(shape_[dim]);
      }
    }
    block.length = c10::multiply_integers(block.shape);
    offset_ += block.length;
    blocks_.push_back(std::move(block));
  }

  at::IntArrayRef shape_;
  std::int64_t offset_ = 0;
  std::vector<TensorBlock> blocks_;
};

} // namespace

TensorSlice::TensorSlice(const at::Tensor& whole)
    : dtype(whole.scalar_type()),
      shape(whole.sizes().vec()),
      pieces{{std::vector<std::int64_t>(shape.size(), 0), whole}} {}

TensorSlice::TensorSlice(const at::Tensor& values, at::IntArrayRef whole_shape, std::int64_t first)
    : TensorSlice(values.scalar_type(), whole_shape) {
  for (const TensorBlock& block : blocks_of(shape, first, values.numel())) {
    pieces.push_back({block.start, values.narrow(0, block.offset, block.length).view(block.shape)});
  }
}

TensorSlices slices_of(const std::map<std::string, at::Tensor>& tensors) {
  return {tensors.begin(), tensors.end()};
}

std::vector<TensorBlock> blocks_of(at::IntArrayRef shape, std::int64_t begin, std::int64_t length) {
  Cutter cutter(shape);
  if (length > 0) {
    cutter.cut({}, begin, begin + length);
  }
  return cutter.take();
}

} // namespace baton::parallel
