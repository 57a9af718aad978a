// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/dropout.h"

#include <cmath>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

const RandomKey kKey = RandomKey(7).with("dropout").with("layers.3");

/// The mask as documented, one word at a time.
at::Tensor judge_mask(std::int64_t rows, std::int64_t channels, std::int64_t first_row, double p) {
  at::Tensor mask = at::empty({rows, channels}, at::kDouble);
  auto values = mask.accessor<double, 2>();
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto index = static_cast<std::uint64_t>((first_row + t) * channels + c);
      const std::uint32_t word = philox(kKey, index / 4)[index % 4];
      values[t][c] = static_cast<double>(word >> 8) * 0x1.0p-24 >= p ? 1.0 : 0.0;
    }
  }
  return mask;
}

TEST(Dropout, FollowsTheCounterInAllTypesAndSizes) {
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t rows : {0, 1, 6}) {
      for (const std::int64_t channels : {1, 5, 16, 1023, 1030, 2055}) {
        for (const std::int64_t first_row : {std::int64_t{0}, std::int64_t{3}}) {
          const at::Tensor x = random_leaf({rows, channels}, dtype);
          const at::Tensor y = dropout(x, kKey, first_row, 0.3);
          const at::Tensor mask = judge_mask(rows, channels, first_row, 0.3);
          expect_close(y, x.to(at::kDouble) * mask / 0.7, "y");
          y.backward(at::ones_like(y));
          expect_close(x.grad(), mask / 0.7, "dx");
        }
      }
    }
  }
}

TEST(Dropout, CountsBeyondThirtyTwoBits) {
  const std::int64_t first_row = (std::int64_t{1} << 34) - 2;
  const at::Tensor x = at::ones({4, 7}, at::kDouble);
  expect_close(dropout(x, kKey, first_row, 0.5), judge_mask(4, 7, first_row, 0.5) / 0.5, "y");
}

TEST(Dropout, OfPartsIsThePartOfTheWhole) {
  const at::Tensor x = at::randn({40, 33});
  const at::Tensor whole = dropout(x, kKey, 100, 0.2);
  EXPECT_TRUE(at::equal(dropout(x.narrow(0, 13, 20), kKey, 113, 0.2), whole.narrow(0, 13, 20)));
  EXPECT_TRUE(at::equal(dropout(with_row_gap(x, 5), kKey, 100, 0.2), whole));
}

TEST(Dropout, DropsTheShareThatItIsAskedFor) {
  const at::Tensor y = dropout(at::ones({500, 1000}), kKey, 0, 0.1);
  const double share = (y == 0).to(at::kDouble).mean().item<double>();
  // Five deviations of a binomial share over half a million elements.
  EXPECT_NEAR(share, 0.1, 5.0 * std::sqrt(0.1 * 0.9 / 5e5));
  EXPECT_TRUE(at::equal(dropout(at::ones({3, 8}), kKey, 0, 0.0), at::ones({3, 8})));
}

TEST(Dropout, GivesEqualBitsOnAnyNumberOfThreads) {
  const at::Tensor x = at::randn({900, 300});
  expect_equal_bits_on_threads([&] { return std::vector{dropout(x, kKey, 5, 0.4)}; });
}

TEST(Dropout, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::ones({2, 3});
  EXPECT_THROW(dropout(x, kKey, 0, 1.0), c10::Error);
  EXPECT_THROW(dropout(x, kKey, 0, -0.1), c10::Error);
  EXPECT_THROW(dropout(x, kKey, -1, 0.1), c10::Error);
  EXPECT_THROW(dropout(at::ones({3}), kKey, 0, 0.1), c10::Error);
}

} // namespace
} // namespace baton::ops
