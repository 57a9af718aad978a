// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/ptxas_log.h"

#include <gtest/gtest.h>

namespace baton::jit {
namespace {

constexpr const char* kLog =
    "a.cu(3): warning #177-D: variable \"x\" was declared but never referenced\n"
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : Compiling entry function '_ZN5baton3addILi64EEEvPKfS2_Pf' for 'sm_90a'\n"
    "ptxas info    : Function properties for _ZN5baton3addILi64EEEvPKfS2_Pf\n"
    "ptxas         .     1024 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads\n"
    "ptxas info    : Used 32 registers, used 1 barriers, 1024 bytes cumulative stack size, "
    "256 bytes smem\n"
    "ptxas info    : Compile time = 112.237 ms\n"
    "ptxas info    : Compiling entry function 'other' for 'sm_90a'\n"
    "ptxas info    : Function properties for other\n"
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 10 registers, used 0 barriers, 380 bytes cmem[0]";

TEST(PtxasLog, ReadsEveryKernel) {
  const std::vector<KernelResources> kernels = parse_ptxas_log(kLog);
  ASSERT_EQ(kernels.size(), 2U);
  EXPECT_EQ(kernels[0].symbol, "_ZN5baton3addILi64EEEvPKfS2_Pf");
  EXPECT_EQ(kernels[0].registers, 32);
  EXPECT_EQ(kernels[0].spill_bytes, 64);
  EXPECT_EQ(kernels[0].shared_bytes, 256);
  EXPECT_EQ(kernels[0].stack_bytes, 1024);
  EXPECT_EQ(kernels[1].symbol, "other");
  EXPECT_EQ(kernels[1].registers, 10);
  EXPECT_EQ(kernels[1].spill_bytes, 0);
  EXPECT_EQ(kernels[1].shared_bytes, 0);
  EXPECT_EQ(kernels[1].stack_bytes, 0);
}

TEST(PtxasLog, OtherLinesAreNoKernels) {
  EXPECT_TRUE(parse_ptxas_log("").empty());
  EXPECT_TRUE(parse_ptxas_log("ptxas info    : Used 10 registers\nerror\n").empty());
}

} // namespace
} // namespace baton::jit
