// SPDX-License-Identifier: Apache-2.0
#include "baton/model/config.h"

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::model {
namespace {

const c10::Device kCpu(c10::DeviceType::CPU);
const c10::Device kGpu(c10::DeviceType::CUDA, 0);

TEST(ModelConfig, AutoFollowsTheDevice) {
  ModelConfig config;
  EXPECT_EQ(config.scalar_type(), at::kFloat);
  config.settle_dtype(kCpu);
  EXPECT_EQ(config.dtype, "fp32");
  config.dtype = "auto";
  config.settle_dtype(kGpu);
  EXPECT_EQ(config.dtype, "bf16");
  EXPECT_EQ(config.scalar_type(), at::kBFloat16);
}

TEST(ModelConfig, AnyOtherDtypeStays) {
  for (const char* dtype : {"fp32", "bf16"}) {
    for (const c10::Device device : {kCpu, kGpu}) {
      ModelConfig config;
      config.dtype = dtype;
      config.settle_dtype(device);
      EXPECT_EQ(config.dtype, dtype);
    }
  }
  ModelConfig config;
  config.dtype = "fp64";
  config.settle_dtype(kCpu);
  EXPECT_EQ(config.scalar_type(), at::kDouble);
  EXPECT_THROW(config.settle_dtype(kGpu), Error);
}

} // namespace
} // namespace baton::model
