// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_module.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace baton::ops {
namespace {

TEST(CudaModule, OpensWithADeviceOrSaysWhyNot) {
  const CudaModuleStatus& status = cuda_module_status();
  if (status.open) {
    EXPECT_TRUE(status.reason.empty());
    EXPECT_EQ(at::hasCUDA(), cuda_device_count() > 0);
  } else {
    EXPECT_FALSE(status.reason.empty());
    EXPECT_FALSE(at::hasCUDA());
  }
}

TEST(CudaModule, CarriesATensorWhereThereIsADevice) {
  if (cuda_device_count() == 0) {
    GTEST_SKIP() << "no CUDA device: " << cuda_module_status().reason;
  }
  const at::Tensor host = at::arange(10, at::kFloat);
  const at::Tensor device = host.to(at::kCUDA).mul(2).to(at::kCPU);
  EXPECT_TRUE(at::equal(device, host * 2));
}

} // namespace
} // namespace baton::ops
