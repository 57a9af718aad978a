// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/parameter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace baton::nn {
namespace {

TEST(ParameterStore, ConstantsGoWhereTheParametersGo) {
  ParameterStore store;
  const at::Tensor& constant = store.declare_constant(at::arange(4));
  store.declare({.name = "weight", .shape = {2}, .cut = {}, .start = start_constant(1.0)});
  EXPECT_TRUE(constant.is_cpu());
  store.allocate(at::kFloat, at::kMeta);
  EXPECT_TRUE(constant.is_meta());
  EXPECT_EQ(store.device(), at::Device(at::kMeta));
  // The values come from the host, so that they are back behind a device that holds none.
  store.initialize(1, at::kFloat, at::kCPU);
  EXPECT_TRUE(at::equal(constant, at::arange(4)));
  EXPECT_EQ(parameter_tensors(store).size(), 1U);
}

} // namespace
} // namespace baton::nn
