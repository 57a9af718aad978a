// SPDX-License-Identifier: Apache-2.0
// Compiles every kernel for its architectures, with no GPU present.
#include "baton/ops/cuda_kernels.h"

#include <atomic>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/jit/compiler.h"

namespace baton::ops {
namespace {

TEST(CudaKernels, CompileWithinTheirRegistersWithoutSpills) {
  std::optional<jit::Compiler> compiler;
  try {
    compiler.emplace();
  } catch (const RunError& error) {
    GTEST_SKIP() << error.what();
  }
  const std::vector<KernelBudget> kernels = all_kernels();
  const std::vector<std::string> archs = {"sm_80", "sm_90a"};
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < kernels.size() * archs.size(); i = next++) {
      const KernelBudget& kernel = kernels[i / archs.size()];
      const std::string& arch = archs[i % archs.size()];
      if (!kernel.fits(arch)) {
        continue;
      }
      const jit::CompiledKernel compiled = compiler->compile(jit::request_of(kernel.spec, arch));
      EXPECT_EQ(compiled.spill_bytes, 0) << kernel.spec.entry << " for " << arch;
      EXPECT_GT(compiled.registers, 0) << kernel.spec.entry << " for " << arch;
      EXPECT_LE(compiled.registers, kernel.registers) << kernel.spec.entry << " for " << arch;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) {
    thread.join();
  }
}

TEST(CudaKernels, AModelLaunchesThoseOfItsTypesAndSizes) {
  const KernelModel model{c10::ScalarType::BFloat16, 64, 128, 4};
  std::set<std::string> names;
  for (const KernelBudget& kernel : all_kernels()) {
    if (kernel.serves(model)) {
      EXPECT_EQ(kernel.spec.entry.find("double"), std::string::npos) << kernel.spec.entry;
      names.insert(kernel.spec.entry);
    }
  }
  EXPECT_TRUE(names.contains("baton::ssd_forward<__nv_bfloat16, 64, 128>"));
  EXPECT_TRUE(names.contains("baton::ssd_hopper<128, true, false>"));
  EXPECT_FALSE(names.contains("baton::ssd_hopper<64, true, false>"));
  EXPECT_FALSE(names.contains("baton::ssd_forward<__nv_bfloat16, 64, 256>"));
}

} // namespace
} // namespace baton::ops
