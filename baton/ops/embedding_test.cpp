// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/embedding.h"

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

/// The gradient of the weight, id by id, in fp64.
at::Tensor judge(const at::Tensor& dout_TD, const at::Tensor& tokens_T, std::int64_t vocabulary) {
  at::Tensor sums = at::zeros({vocabulary, dout_TD.size(1)}, at::kDouble);
  for (std::int64_t t = 0; t < tokens_T.size(0); ++t) {
    sums[tokens_T[t].item<std::int64_t>()] += dout_TD[t].to(at::kDouble);
  }
  return sums;
}

TEST(Embedding, TakesRowsAndAddsTheirGradients) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t tokens : {0, 1, 2, 60}) {
      const std::string what = std::to_string(tokens) + " tokens";
      const at::Tensor weight = random_leaf({11, 5}, dtype);
      const at::Tensor ids = at::randint(0, 11, {tokens}, at::kLong);
      const at::Tensor out = ops::embedding(weight, ids);
      EXPECT_TRUE(at::equal(out, weight.detach().index_select(0, ids))) << what;
      const at::Tensor dout = at::randn(out.sizes(), at::kDouble).to(dtype);
      out.backward(dout);
      EXPECT_EQ(weight.grad().scalar_type(), dtype);
      expect_close(weight.grad(), judge(dout, ids, 11), what);
    }
  }
}

TEST(Embedding, AddsInFp32WhereRowsAreBf16) {
  // In bf16 256 + 1 is 256.
  const at::Tensor dout = at::cat({at::full({1, 2}, 256.0), at::ones({256, 2})}).to(at::kBFloat16);
  const at::Tensor sums = embedding_backward(dout, at::zeros({257}, at::kLong), 1);
  EXPECT_TRUE(at::equal(sums.to(at::kFloat), at::full({1, 2}, 512.0F)));
}

TEST(Embedding, TakesRowsThatLieApart) {
  at::manual_seed(2);
  const at::Tensor wide = at::randn({20, 30}, at::kDouble);
  const at::Tensor ids = at::randint(0, 4, {20}, at::kLong);
  for (const at::Tensor& dout :
       {wide.narrow(1, 7, 9), wide.narrow(0, 0, 1).expand({20, 30}), wide.t().contiguous().t()}) {
    expect_close(embedding_backward(dout, ids, 4), judge(dout, ids, 4), "strided");
  }
}

TEST(Embedding, EqualBitsForOneAndTwoThreads) {
  at::manual_seed(3);
  const at::Tensor dout = at::randn({500, 40}, at::kFloat);
  const at::Tensor ids = at::randint(0, 30, {500}, at::kLong);
  expect_equal_bits_on_threads(
      [&] { return std::vector<at::Tensor>{embedding_backward(dout, ids, 30)}; });
}

TEST(Embedding, RefusesIdsOutsideTheVocabulary) {
  const at::Tensor weight = at::zeros({3, 2});
  for (const std::int64_t id : {-1, 3}) {
    const at::Tensor ids = at::full({1}, id, at::kLong);
    EXPECT_THROW(ops::embedding(weight, ids), c10::Error);
    EXPECT_THROW(embedding_backward(at::zeros({1, 2}), ids, 3), c10::Error);
  }
  EXPECT_THROW(ops::embedding(weight, at::zeros({2}, at::kInt)), c10::Error);
}

} // namespace
} // namespace baton::ops
