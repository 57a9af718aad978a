// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/linear.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace baton::ops {
namespace {

/// Relative to the largest value: rounding of one sum in the dtype, of some thousand terms in fp32.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-13 : dtype == at::kFloat ? 1e-5 : 8e-3;
}

void expect_close(const at::Tensor& got, const at::Tensor& want, double limit, const char* what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  if (want.numel() > 0) {
    const double scale = std::max(1.0, want.abs().max().item<double>());
    const double error = (got.to(at::kDouble) - want).abs().max().item<double>();
    EXPECT_LE(error, limit * scale) << what;
  }
}

at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, at::kDouble).to(dtype);
}

struct Shape {
  std::int64_t rows;
  std::int64_t depth;
  std::int64_t outputs;
};

/// Among them none of a side, single ones, odd ones, several tiles and sums cut along their depth.
const std::vector<Shape> kShapes{
    {0, 5, 3},
    {1, 1, 1},
    {4, 0, 3},
    {9, 5, 0},
    {7, 13, 5},
    {33, 64, 97},
    {300, 129, 257},
    {5000, 24, 40},
    {16, 4100, 16},
    {64, 512, 1000}};

struct Results {
  at::Tensor y;
  std::vector<at::Tensor> gradients;
};

Results
run(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& dy) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : {x, weight, bias}) {
    leaves.push_back(input.detach().requires_grad_());
  }
  const at::Tensor y = ops::linear(leaves[0], leaves[1], leaves[2]);
  return {y.detach(), torch::autograd::grad({y}, leaves, {dy})};
}

TEST(Linear, FollowsTheFormulaInEveryDtypeAndShape) {
  at::manual_seed(2);
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(
          std::string(c10::toString(dtype)) + " " + std::to_string(s.rows) + " " +
          std::to_string(s.depth) + " " + std::to_string(s.outputs));
      const at::Tensor x = normal({s.rows, s.depth}, dtype);
      const at::Tensor weight = normal({s.outputs, s.depth}, dtype);
      const at::Tensor bias = normal({s.outputs}, dtype);
      const at::Tensor dy = normal({s.rows, s.outputs}, dtype);
      const Results got = run(x, weight, bias, dy);
      const at::Tensor wide_dy = dy.to(at::kDouble);
      expect_close(
          got.y,
          at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias.to(at::kDouble),
          tolerance(dtype),
          "y");
      expect_close(
          got.gradients[0], at::matmul(wide_dy, weight.to(at::kDouble)), tolerance(dtype), "dx");
      expect_close(
          got.gradients[1],
          at::matmul(wide_dy.t(), x.to(at::kDouble)),
          tolerance(dtype),
          "dweight");
      expect_close(got.gradients[2], wide_dy.sum(0), tolerance(dtype), "dbias");
    }
  }
}

TEST(Linear, EqualBitsForOneAndTwoThreads) {
  const int threads = at::get_num_threads();
  at::manual_seed(3);
  std::vector<Shape> shapes = kShapes;
  shapes.insert(shapes.end(), {{8192, 64, 64}, {2048, 128, 24}, {10, 457, 213}, {11, 416, 23}});
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Shape& s : shapes) {
      const at::Tensor x = normal({s.rows, s.depth}, dtype);
      const at::Tensor weight = normal({s.outputs, s.depth}, dtype);
      const at::Tensor bias = normal({s.outputs}, dtype);
      const at::Tensor dy = normal({s.rows, s.outputs}, dtype);
      at::set_num_threads(1);
      const Results one = run(x, weight, bias, dy);
      at::set_num_threads(2);
      const Results two = run(x, weight, bias, dy);
      EXPECT_TRUE(at::equal(one.y, two.y))
          << dtype << " " << s.rows << " " << s.depth << " " << s.outputs;
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(at::equal(one.gradients[i], two.gradients[i]))
            << dtype << " " << i << " of " << s.rows << " " << s.depth << " " << s.outputs;
      }
    }
  }
  at::set_num_threads(threads);
}

TEST(Linear, KeepsLeadingDimsAndTakesStridedInputs) {
  const at::Tensor weight = normal({5, 6}, at::kDouble).t().contiguous().t();
  for (const at::Tensor& x :
       {normal({2, 9, 6}, at::kDouble),
        normal({18, 12}, at::kDouble).narrow(1, 3, 6),
        normal({6, 18}, at::kDouble).t(),
        normal({1, 6}, at::kDouble).expand({18, 6})}) {
    const at::Tensor leaf = x.detach().requires_grad_();
    const at::Tensor y = ops::linear(leaf, weight);
    expect_close(y.detach(), at::matmul(x, weight.t()), 1e-13, "y");
    const at::Tensor dy = at::ones({1}, at::kDouble).expand_as(y);
    expect_close(torch::autograd::grad({y}, {leaf}, {dy})[0], at::matmul(dy, weight), 1e-13, "dx");
  }
}

TEST(Linear, WorksInInferenceMode) {
  const c10::InferenceMode inference;
  const at::Tensor x = normal({300, 200}, at::kFloat);
  const at::Tensor weight = normal({100, 200}, at::kFloat);
  expect_close(
      ops::linear(x, weight),
      at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()),
      tolerance(at::kFloat),
      "y");
}

TEST(Matvec, FollowsTheFormulaForEveryNumberOfRows) {
  at::manual_seed(4);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (std::int64_t rows = 0; rows <= kMatvecRows; ++rows) {
      for (const auto& [depth, outputs] : std::vector<std::pair<int, int>>{
               {0, 3}, {1, 1}, {7, 9}, {16, 64}, {1000, 37}, {3000, 5}}) {
        const at::Tensor x = normal({rows, 2 * depth}, dtype).narrow(1, depth, depth);
        const at::Tensor weight = normal({outputs, depth + 3}, dtype).narrow(1, 0, depth);
        const at::Tensor bias = normal({outputs}, dtype);
        const at::Tensor want =
            at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias.to(at::kDouble);
        expect_close(matvec(x, weight, bias), want, tolerance(dtype), "matvec");
        expect_close(ops::linear(x, weight, bias), want, tolerance(dtype), "linear");
      }
    }
  }
}

TEST(Matvec, ARowHasEqualBitsAloneAndAmongOthersAndForAnyThreads) {
  const int threads = at::get_num_threads();
  at::manual_seed(5);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = normal({8, 2100}, dtype);
    const at::Tensor weight = normal({301, 2100}, dtype);
    at::set_num_threads(1);
    const at::Tensor all = matvec(x, weight);
    at::set_num_threads(2);
    EXPECT_TRUE(at::equal(matvec(x, weight), all));
    for (const std::int64_t rows : {1, 2, 3, 5}) {
      EXPECT_TRUE(at::equal(matvec(x.narrow(0, 0, rows), weight), all.narrow(0, 0, rows))) << rows;
    }
  }
  at::set_num_threads(threads);
}

template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(Linear, SaysWhatIsWrong) {
  const at::Tensor x = at::ones({20, 5}, at::kFloat);
  EXPECT_NE(
      refusal([&] {
        ops::linear(x, at::ones({3, 4}, at::kFloat));
      }).find("[20, 5] and [3, 4]"),
      std::string::npos);
  EXPECT_NE(
      refusal([&] {
        ops::linear(x, at::ones({3, 5}, at::kDouble));
      }).find("one dtype"),
      std::string::npos);
  EXPECT_NE(
      refusal([&] {
        ops::linear(x, at::ones({3, 5}, at::kFloat), at::ones({4}, at::kFloat));
      }).find("one entry per row"),
      std::string::npos);
  EXPECT_NE(
      refusal([&] {
        matvec(x, at::ones({3, 5}, at::kFloat));
      }).find("B <= 8"),
      std::string::npos);
  const at::Tensor leaf = at::ones({2, 5}, at::kFloat).requires_grad_();
  EXPECT_NE(
      refusal([&] {
        matvec(leaf, at::ones({3, 5}, at::kFloat));
      }).find("no derivative"),
      std::string::npos);
}

} // namespace
} // namespace baton::ops
