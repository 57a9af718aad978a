// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/device.h"

#include <string>

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/ops/cuda_module.h"

namespace baton::ops {
namespace {

std::string refusal(const std::string& name) {
  try {
    open_device(name, "run.device");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Device, TheCpuIsAlwaysThere) {
  EXPECT_EQ(open_device("cpu", "run.device"), c10::Device(c10::DeviceType::CPU));
}

TEST(Device, OtherNamesAreRefusedByTheirKey) {
  for (const char* name : {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cpu:0"}) {
    EXPECT_EQ(
        refusal(name), "run.device must be cpu, cuda or cuda:N, got \"" + std::string(name) + "\"");
  }
}

TEST(Device, GpusThatAreNotThereAreRefusedWithTheReason) {
  const std::string message = refusal("cuda:99");
  EXPECT_EQ(message.rfind("run.device is cuda:99, but ", 0), 0U) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  if (!cuda_module_status().open) {
    EXPECT_NE(message.find(cuda_module_status().reason), std::string::npos) << message;
  }
}

TEST(Device, ArithmeticIsExactAndRepeats) {
  set_arithmetic(/*deterministic=*/true);
  const at::Context& context = at::globalContext();
  EXPECT_FALSE(context.allowTF32CuBLAS());
  EXPECT_EQ(context.float32MatmulPrecision(), at::Float32MatmulPrecision::HIGHEST);
  EXPECT_NE(
      context.allowBF16ReductionCuBLAS(),
      at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK);
  EXPECT_TRUE(context.deterministicAlgorithms());
  EXPECT_FALSE(context.deterministicFillUninitializedMemory());
  set_arithmetic(/*deterministic=*/false);
  EXPECT_FALSE(context.deterministicAlgorithms());
  EXPECT_FALSE(context.allowTF32CuBLAS());
}

} // namespace
} // namespace baton::ops
