// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/tensor_slice.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace baton::parallel {
namespace {

TEST(TensorSlice, BlocksGiveTheValuesInTheirOrder) {
  const std::vector<std::vector<std::int64_t>> shapes{{}, {6}, {3, 4}, {2, 1, 3}, {2, 3, 2, 2}};
  for (const std::vector<std::int64_t>& shape : shapes) {
    const std::int64_t count = c10::multiply_integers(shape);
    const at::Tensor whole = at::arange(count).view(shape);
    for (std::int64_t begin = 0; begin <= count; ++begin) {
      for (std::int64_t end = begin; end <= count; ++end) {
        const std::vector<TensorBlock> blocks = blocks_of(shape, begin, end - begin);
        EXPECT_LE(blocks.size(), std::max<std::size_t>(1, 2 * shape.size()));
        std::int64_t next = begin;
        for (const TensorBlock& block : blocks) {
          EXPECT_EQ(block.offset, next - begin);
          at::Tensor part = whole;
          for (std::size_t dim = 0; dim < shape.size(); ++dim) {
            part = part.narrow(static_cast<std::int64_t>(dim), block.start[dim], block.shape[dim]);
          }
          EXPECT_TRUE(at::equal(part.flatten(), at::arange(next, next + block.length)));
          next += block.length;
        }
        EXPECT_EQ(next, end);
      }
    }
  }
}

TEST(TensorSlice, IsWholeWhereItHasTheTensorsShape) {
  EXPECT_TRUE(TensorSlice(at::zeros({2, 3})).whole());
  EXPECT_TRUE(TensorSlice(at::zeros({6}), {2, 3}, 0).whole());
  EXPECT_FALSE(TensorSlice(at::zeros({5}), {2, 3}, 1).whole());
  EXPECT_FALSE(TensorSlice(at::kFloat, {2, 3}).whole());
  EXPECT_TRUE(blocks_of({2, 3}, 4, 0).empty());
}

} // namespace
} // namespace baton::parallel
