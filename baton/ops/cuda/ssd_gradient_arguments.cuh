// SPDX-License-Identifier: Apache-2.0
// What the kernels of the backward scan take beside ssd_arguments.cuh, as their host code fills it
// in.
#pragma once

#include "baton/ops/cuda/ssd_arguments.cuh"

namespace baton {

constexpr int kSsdGradientColumns = 64;  ///< head dims, or state dims, of a tile
constexpr int kSsdGradientThreads = 256; ///< of a block of ssd_chunk_gradients

/// Pointers are to values of the activations' dtype.
struct SsdGradientInputs {
  SsdRows dy;          ///< [T, H, P]
  SsdRows x;           ///< [T, H, P]
  SsdRows keys;        ///< B, [T, G, N]
  SsdRows queries;     ///< C, [T, G, N]
  const void* states;  ///< that come into the chunks, [chunks, H, P, N]
  const void* dstates; ///< gradients of those that leave them, [chunks, H, P, N]
  bool states_packed;  ///< rows of both are multiples of 16 bytes
  const float* D;      ///< null: none
  long long D_head_stride;
  long long D_channel_stride; ///< 0 where D has one value a head
};

/// Dense. The heads of a group are shared by `parts` blocks.
struct SsdGradientOutputs {
  void* dx;       ///< [T, H, P], of the activations' dtype
  void* ddt;      ///< [T, H], of dt's dtype
  void* dkeys;    ///< [T, G, N], of the activations' dtype; with several parts fp32 [parts, T, G, N]
  void* dqueries; ///< likewise
  long long tokens;
  int parts;
  float* chunk_sums; ///< [chunks, 2 H + dD_columns]: a chunk's part of dA, of ddt_bias, and of dD
  int dD_columns;    ///< H P where D is per channel, H tiles of P where it is per head, 0 without D
};

} // namespace baton
