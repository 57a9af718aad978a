// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/compiler.h"

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::jit {
namespace {

constexpr const char* kSource = R"(
#include "baton/ops/cuda/sum.cuh"
namespace baton {
template <int kCount>
__global__ void add(const float* a, const float* b, float* c) {
  __shared__ float kept[kCount];
  const int i = blockIdx.x * kCount + threadIdx.x;
  kept[threadIdx.x] = sum(a[i], b[i]);
  __syncthreads();
  c[i] = SCALE * kept[kCount - 1 - threadIdx.x];
}
}
)";

CompileRequest add_request(const std::string& arch) {
  CompileRequest request;
  request.name = "add";
  request.source = {"baton/ops/cuda/add.cu", kSource};
  request.headers = {
      {"baton/ops/cuda/sum.cuh",
       "#pragma once\n__device__ float sum(float a, float b) { return a + b; }\n"}};
  request.options = {"-DSCALE=2"};
  request.arch = arch;
  request.entry = "baton::add<64>";
  return request;
}

class CompilerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      compiler_.emplace();
    } catch (const RunError& error) {
      GTEST_SKIP() << error.what();
    }
  }

  std::string error_of(const CompileRequest& request) const {
    try {
      compiler_->compile(request);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::optional<Compiler> compiler_;
};

TEST_F(CompilerTest, CompilesWithNoGpuPresent) {
  for (const std::string arch : {"sm_80", "sm_90a"}) {
    const CompiledKernel kernel = compiler_->compile(add_request(arch));
    EXPECT_EQ(
        kernel.cubin.substr(0, 4),
        "\x7f"
        "ELF");
    EXPECT_EQ(kernel.entry_symbol, "_ZN5baton3addILi64EEEvPKfS2_Pf");
    EXPECT_NE(kernel.cubin.find(kernel.entry_symbol), std::string::npos);
    EXPECT_GT(kernel.registers, 0);
    EXPECT_EQ(kernel.spill_bytes, 0);
    EXPECT_EQ(kernel.shared_bytes - kernel.shared_bytes % 256, 256); // sm_90 reserves some more
    EXPECT_EQ(kernel.stack_bytes, 0);
    EXPECT_GT(kernel.microseconds, 0);
    EXPECT_NE(kernel.log.find("for '" + arch + "'"), std::string::npos) << kernel.log;
  }
}

TEST_F(CompilerTest, OptionsAndEntrySpecialise) {
  CompileRequest request = add_request("sm_80");
  const std::string two = compiler_->compile(request).cubin;
  EXPECT_EQ(compiler_->compile(request).cubin, two);
  request.options = {"-DSCALE=3"};
  EXPECT_NE(compiler_->compile(request).cubin, two);
  request.entry = "baton::add<128>";
  const CompiledKernel kernel = compiler_->compile(request);
  EXPECT_EQ(kernel.entry_symbol, "_ZN5baton3addILi128EEEvPKfS2_Pf");
  EXPECT_EQ(kernel.shared_bytes, 512);
}

TEST_F(CompilerTest, FewRegistersSpill) {
  CompileRequest request = add_request("sm_80");
  request.source.text = R"(
extern "C" __global__ void spilling(const float* x, float* y) {
  float held[80];
#pragma unroll
  for (int i = 0; i < 80; ++i) held[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 80; ++i) y[i * 1024 + threadIdx.x] = held[79 - i];
}
)";
  request.entry = "spilling";
  request.options = {"--maxrregcount=32"};
  const CompiledKernel kernel = compiler_->compile(request);
  EXPECT_EQ(kernel.entry_symbol, "spilling");
  EXPECT_LE(kernel.registers, 32);
  EXPECT_GT(kernel.spill_bytes, 0);
}

TEST_F(CompilerTest, FindsCudasOwnHeaders) {
  CompileRequest request = add_request("sm_90a");
  request.source.text = R"(
#include <cuda_bf16.h>
extern "C" __global__ void narrow(const float* x, __nv_bfloat16* y) {
  y[threadIdx.x] = __float2bfloat16(x[threadIdx.x]);
}
)";
  request.entry = "narrow";
  EXPECT_EQ(error_of(request), "");
}

TEST_F(CompilerTest, ASyntaxErrorNamesKernelArchitectureAndLine) {
  CompileRequest request = add_request("sm_90a");
  request.headers[0].text += "__device__ int broken() { return missing; }\n";
  const std::string error = error_of(request);
  EXPECT_EQ(
      error.substr(0, error.find('\n')),
      "kernel add does not compile for sm_90a: NVRTC_ERROR_COMPILATION");
  EXPECT_NE(error.find("baton/ops/cuda/sum.cuh(3): error"), std::string::npos) << error;
}

TEST_F(CompilerTest, UnknownArchitecturesEntriesAndHeadersAreRefused) {
  const std::string arch = error_of(add_request("sm_17"));
  EXPECT_EQ(arch.find("kernel add does not compile for sm_17: NVRTC_ERROR_INVALID_OPTION\n"), 0U);
  EXPECT_NE(arch.find("--gpu-architecture"), std::string::npos) << arch;
  CompileRequest request = add_request("sm_80");
  request.entry = "baton::subtract<64>";
  EXPECT_EQ(error_of(request).find("kernel add does not compile for sm_80: "), 0U);
  request = add_request("sm_80");
  request.headers.clear();
  EXPECT_NE(error_of(request).find("baton/ops/cuda/sum.cuh"), std::string::npos);
}

TEST_F(CompilerTest, KnowsItsArchitectures) {
  for (const char* arch : {"sm_80", "sm_90", "sm_90a"}) {
    EXPECT_NO_THROW(compiler_->check_arch(arch)) << arch;
  }
  for (const char* arch : {"", "sm_", "sm_17", "sm_9", "sm_90b", "sm_900", "SM_90", "../sm_90"}) {
    EXPECT_THROW(compiler_->check_arch(arch), Error) << arch;
  }
}

TEST_F(CompilerTest, ThreadsCompileAtOnce) {
  std::vector<std::string> cubins(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < cubins.size(); ++i) {
    threads.emplace_back([&, i] { cubins[i] = compiler_->compile(add_request("sm_80")).cubin; });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(std::count(cubins.begin(), cubins.end(), cubins[0]), 4);
}

TEST_F(CompilerTest, VersionNamesTheRelease) {
  EXPECT_EQ(compiler_->compiler_version().find("nvrtc 1"), 0U);
  EXPECT_EQ(compiler_->compiler_version(), Compiler().compiler_version());
}

} // namespace
} // namespace baton::jit
