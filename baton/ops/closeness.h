// SPDX-License-Identifier: Apache-2.0
// What the tests of operators share: how near a result must come to its fp64 judge, and equal bits.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace baton::ops {

inline const std::vector<at::ScalarType> kActivationTypes{at::kDouble, at::kFloat, at::kBFloat16};

/// Largest difference from the judge, relative to the largest expected value or 1. Sums of some
/// hundred terms of order one stay within some tens of roundings: 2^-53, 2^-24, and 2^-9 where only
/// the result is rounded to bf16.
inline double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-13 : dtype == at::kFloat ? 5e-6 : 6e-3;
}

inline void
expect_close(const at::Tensor& found, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  if (found.numel() == 0) {
    return;
  }
  const at::Tensor judge = expected.detach().to(at::kDouble);
  const double scale = std::max(1.0, judge.abs().max().item<double>());
  const double error = (found.detach().to(at::kDouble) - judge).abs().max().item<double>();
  EXPECT_LE(error, tolerance(found.scalar_type()) * scale) << what << " " << found.scalar_type();
}

/// A leaf that requires a gradient, normal values rounded to `dtype`.
inline at::Tensor random_leaf(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, at::kDouble).to(dtype).requires_grad_(true);
}

/// The same values in fp64 as a leaf of the judge's graph.
inline at::Tensor judge_leaf(const at::Tensor& leaf) {
  return leaf.detach().to(at::kDouble).requires_grad_(true);
}

/// A tensor with the values of `tensor` [T, D] whose rows lie `gap` values further apart.
inline at::Tensor with_row_gap(const at::Tensor& tensor, std::int64_t gap) {
  const at::Tensor wide = at::full({tensor.size(0), tensor.size(1) + gap}, 1e30, tensor.options());
  at::Tensor view = wide.narrow(1, 0, tensor.size(1));
  view.copy_(tensor);
  return view;
}

/// Expects `compute` to return the same bits on one thread and on two.
inline void expect_equal_bits_on_threads(const std::function<std::vector<at::Tensor>()>& compute) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const std::vector<at::Tensor> one = compute();
  at::set_num_threads(2);
  const std::vector<at::Tensor> two = compute();
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(at::equal(one[i], two[i])) << "result " << i;
  }
}

} // namespace baton::ops
