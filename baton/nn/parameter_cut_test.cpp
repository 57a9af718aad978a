// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/parameter_cut.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton::nn {
namespace {

using testing::ElementsAre;

// z and x of 8 values, B and C of 2 groups, dt of 8 heads, as a mixer packs them.
const ParameterCut kPacked{.dim = 0, .parts = {{8}, {8}, {6, 2}, {6, 2}, {8}}};

TEST(ParameterCut, DividesEachPartOnItsOwn) {
  const at::Tensor whole = at::arange(36);
  const at::Tensor own = own_values(whole, kPacked, 1, 2);
  EXPECT_TRUE(at::equal(
      own, at::tensor({4, 5, 6, 7, 12, 13, 14, 15, 19, 20, 21, 25, 26, 27, 32, 33, 34, 35})));
  EXPECT_THAT(own_shape({36}, kPacked, 1, 2), ElementsAre(18));
}

TEST(ParameterCut, SharesBlocksWhereThereAreFewerThanRanks) {
  const std::vector<ParameterPiece> pieces = pieces_of({36, 5}, kPacked, 3, 4);
  ASSERT_EQ(pieces.size(), 5U);
  EXPECT_THAT(pieces[2].start, ElementsAre(19, 0));
  EXPECT_THAT(pieces[2].shape, ElementsAre(3, 5));
  EXPECT_EQ(pieces[2].first, 4);
  EXPECT_EQ(pieces[2].holders, 2);
  EXPECT_EQ(pieces[2].holder, 1);
  EXPECT_EQ(pieces[0].holders, 1);
  EXPECT_THAT(own_shape({36, 5}, kPacked, 3, 4), ElementsAre(12, 5));
}

TEST(ParameterCut, SharesOfSingleValuesMayDiffer) {
  const ParameterCut cut{.dim = 1, .parts = {}};
  EXPECT_THAT(own_shape({2, 7}, cut, 0, 3), ElementsAre(2, 2));
  EXPECT_THAT(own_shape({2, 7}, cut, 1, 3), ElementsAre(2, 2));
  EXPECT_THAT(own_shape({2, 7}, cut, 2, 3), ElementsAre(2, 3));
}

std::vector<std::vector<std::int64_t>> stretches(const ParameterPiece& piece, at::IntArrayRef own) {
  std::vector<std::vector<std::int64_t>> all;
  for (const FlatRange& range : flat_ranges(piece, own)) {
    all.push_back({range.begin, range.end});
  }
  return all;
}

TEST(ParameterCut, StretchesThatFollowEachOtherAreOne) {
  // Columns: all of them are this piece's, so that rows join.
  const ParameterCut columns{.dim = 1, .parts = {}};
  EXPECT_THAT(
      stretches(pieces_of({5, 6}, columns, 1, 2).front(), {5, 3}), ElementsAre(ElementsAre(0, 15)));
  // Of two parts each row has a stretch.
  const ParameterCut parts{.dim = 1, .parts = {{4}, {2}}};
  const std::vector<ParameterPiece> pieces = pieces_of({3, 6}, parts, 1, 2);
  EXPECT_THAT(
      stretches(pieces[0], {3, 3}),
      ElementsAre(ElementsAre(0, 2), ElementsAre(3, 5), ElementsAre(6, 8)));
  EXPECT_THAT(
      stretches(pieces[1], {3, 3}),
      ElementsAre(ElementsAre(2, 3), ElementsAre(5, 6), ElementsAre(8, 9)));
}

TEST(ParameterCut, WithoutADimAllHoldAll) {
  const std::vector<ParameterPiece> pieces = pieces_of({3, 4}, {}, 1, 4);
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_THAT(pieces[0].start, ElementsAre(0, 0));
  EXPECT_EQ(pieces[0].holders, 4);
  EXPECT_EQ(pieces[0].holder, 1);
  const at::Tensor values = at::ones({3, 4});
  EXPECT_TRUE(pieces[0].of(values).is_same(values));
}

TEST(ParameterCut, EveryValueIsWrittenOnce) {
  for (const int ranks : {1, 2, 4, 8}) {
    const at::Tensor written = at::zeros({36}, at::kLong);
    for (int rank = 0; rank < ranks; ++rank) {
      for (const ParameterPiece& piece : pieces_of({36}, kPacked, rank, ranks)) {
        if (piece.holder == 0) {
          piece.of_whole(written).add_(1);
        }
      }
    }
    EXPECT_TRUE(written.eq(1).all().item<bool>()) << ranks;
  }
}

} // namespace
} // namespace baton::nn
