// SPDX-License-Identifier: Apache-2.0
// Compiles every kernel for its architectures, with no GPU present.
#include "baton/ops/cuda_kernels.h"

#include <optional>
#include <set>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/jit/compiler.h"

namespace baton::ops {
namespace {

TEST(CudaKernels, CompileWithinTheirRegistersAndWithoutSpills) {
  std::optional<jit::Compiler> compiler;
  try {
    compiler.emplace();
  } catch (const RunError& error) {
    GTEST_SKIP() << error.what();
  }
  std::set<std::string> seen;
  for (const KernelBudget& kernel : all_kernels()) {
    if (!seen.insert(kernel.spec.entry).second) {
      continue;
    }
    for (const std::string arch : {"sm_80", "sm_90a"}) {
      if (!kernel.fits(arch)) {
        continue;
      }
      const jit::CompiledKernel compiled = compiler->compile(jit::request_of(kernel.spec, arch));
      EXPECT_EQ(compiled.spill_bytes, 0) << kernel.spec.entry << " for " << arch;
      EXPECT_GT(compiled.registers, 0) << kernel.spec.entry << " for " << arch;
      EXPECT_LE(compiled.registers, kernel.registers) << kernel.spec.entry << " for " << arch;
    }
  }
}

} // namespace
} // namespace baton::ops
