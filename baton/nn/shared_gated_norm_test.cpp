// SPDX-License-Identifier: Apache-2.0
// The norm of one rank's channels against the operator; model/tensor_parallel_test has several.
#include "baton/nn/shared_gated_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"

namespace baton::nn {
namespace {

struct Normed {
  at::Tensor y, z, weight, out;
};

template <class Norm>
Normed norm_with(at::ScalarType dtype, const Norm& norm) {
  const auto values = [&](std::uint64_t key, at::IntArrayRef shape) {
    return uniform(RandomKey(key), shape, -2.0, 2.0).to(dtype).set_requires_grad(true);
  };
  Normed normed{
      .y = values(1, {7, 12}), .z = values(2, {7, 12}), .weight = values(3, {12}), .out = {}};
  normed.out = norm(normed.y, normed.z, normed.weight);
  normed.out.backward(uniform(RandomKey(4), {7, 12}, -1.0, 1.0).to(dtype));
  return normed;
}

// Both compute in fp32 (fp64) and round once; the order of additions differs.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 2e-2;
}

TEST(SharedGatedNorm, AloneEqualsTheOperator) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const bool gate_first : {true, false}) {
      const ops::GatedNormConfig config{.eps = 1e-5, .group_size = 4, .gate_first = gate_first};
      const Normed found = norm_with(dtype, [&](const auto& y, const auto& z, const auto& weight) {
        return shared_gated_norm(y, z, weight, config, {});
      });
      const Normed wanted = norm_with(dtype, [&](const auto& y, const auto& z, const auto& weight) {
        return ops::gated_norm(y, z, weight, config);
      });
      const auto expect_close = [&](const at::Tensor& value, const at::Tensor& like) {
        EXPECT_EQ(value.scalar_type(), dtype);
        EXPECT_LE((value - like).abs().max().item<double>(), 4 * tolerance(dtype)) << dtype;
      };
      expect_close(found.out.detach(), wanted.out.detach());
      expect_close(found.y.grad(), wanted.y.grad());
      expect_close(found.z.grad(), wanted.z.grad());
      expect_close(found.weight.grad(), wanted.weight.grad());
    }
  }
}

} // namespace
} // namespace baton::nn
