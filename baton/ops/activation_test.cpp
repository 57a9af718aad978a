// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/activation.h"

#include <cmath>
#include <limits>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

using Activation = at::Tensor (*)(const at::Tensor&);

at::Tensor judge_squared_relu(const at::Tensor& x) {
  return at::where(x > 0, x * x, at::zeros_like(x));
}

at::Tensor judge_swiglu(const at::Tensor& x) {
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return halves[0] / (1.0 + at::exp(-halves[0])) * halves[1];
}

void expect_like_judge(Activation activation, Activation judge, const at::Tensor& x) {
  const at::Tensor judge_x = judge_leaf(x);
  const at::Tensor expected = judge(judge_x);
  const at::Tensor y = activation(x);
  expect_close(y, expected, "y");
  const at::Tensor dy = at::randn(y.sizes(), at::kDouble).to(y.scalar_type());
  y.backward(dy);
  expected.backward(dy.to(at::kDouble));
  expect_close(x.grad(), judge_x.grad(), "dx");
}

TEST(Activation, FollowsTheFormulasInAllTypesAndSizes) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const std::int64_t rows : {0, 1, 7, 300}) {
      for (const std::int64_t channels : {2, 6, 16, 62, 260}) {
        expect_like_judge(squared_relu, judge_squared_relu, random_leaf({rows, channels}, dtype));
        expect_like_judge(swiglu, judge_swiglu, random_leaf({rows, channels}, dtype));
      }
    }
    expect_like_judge(squared_relu, judge_squared_relu, random_leaf({}, dtype));
    expect_like_judge(squared_relu, judge_squared_relu, random_leaf({2, 3, 5}, dtype));
    expect_like_judge(swiglu, judge_swiglu, random_leaf({2, 3, 10}, dtype));
  }
}

TEST(Activation, ReadsSlicesOfWiderRows) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({5, 12});
  EXPECT_TRUE(at::equal(squared_relu(with_row_gap(x, 3)), squared_relu(x)));
  EXPECT_TRUE(at::equal(swiglu(with_row_gap(x, 3)), swiglu(x)));
  const at::Tensor turned = at::randn({12, 5}).t();
  EXPECT_TRUE(at::equal(swiglu(turned), swiglu(turned.contiguous())));
}

TEST(Activation, KeepsNotANumber) {
  at::manual_seed(1);
  const at::Tensor x = at::full({1, 16}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(squared_relu(x).isnan().all().item<bool>());
  EXPECT_TRUE(squared_relu(-x).isnan().all().item<bool>());
  EXPECT_TRUE(swiglu(x).isnan().all().item<bool>());
  EXPECT_TRUE(squared_relu(x.to(at::kBFloat16)).isnan().all().item<bool>());
}

TEST(Activation, StaysFiniteAtLargeGates) {
  at::manual_seed(1);
  const at::Tensor gate = at::tensor({-1e30F, -1000.0F, -90.0F, 90.0F, 1000.0F, 1e18F});
  const at::Tensor x = at::stack({gate, at::ones_like(gate)}, 1).requires_grad_(true);
  const at::Tensor y = swiglu(x);
  y.sum().backward();
  EXPECT_TRUE(y.narrow(0, 1, 5).isfinite().all().item<bool>());
  EXPECT_TRUE(x.grad().narrow(0, 1, 5).isfinite().all().item<bool>());
}

TEST(Activation, RefusesWhatDoesNotFit) {
  at::manual_seed(1);
  EXPECT_THROW(swiglu(at::ones({2, 3})), c10::Error);
  EXPECT_THROW(swiglu(at::ones({2, 4}, at::kLong)), c10::Error);
  EXPECT_THROW(squared_relu(at::ones({2, 4}, at::kHalf)), c10::Error);
}

} // namespace
} // namespace baton::ops
