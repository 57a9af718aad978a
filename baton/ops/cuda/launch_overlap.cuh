// SPDX-License-Identifier: Apache-2.0
// What both sides of overlapping launches (jit::LaunchShape) call. Architectures before sm_90 have
// no such launches, and nothing to do.
#pragma once

namespace baton {

/// Lets a launch that overlaps this one begin, once all blocks have called it or ended. One thread
/// of a block, or more.
__device__ inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

/// Waits until the launches before this one have ended, and what they wrote is there.
__device__ inline void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

} // namespace baton
