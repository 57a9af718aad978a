// SPDX-License-Identifier: Apache-2.0
// The shared memory of a block whose size the launch names.
#pragma once

namespace baton {

/// Begins at a multiple of 128 bytes. One array a kernel: parts of it are cut out by the kernel.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
  return dynamic_shared_bytes;
}

} // namespace baton
