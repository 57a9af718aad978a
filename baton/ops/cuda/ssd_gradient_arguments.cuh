// SPDX-License-Identifier: Apache-2.0
// What the kernels of the backward scan take beside ssd_arguments.cuh, as their host code fills it
// in.
#pragma once

#include "baton/ops/cuda/ssd_arguments.cuh"

namespace baton {

constexpr int kSsdGradientColumns = 64;  ///< head dims, or state dims, of a tile
constexpr int kSsdGradientThreads = 512; ///< of a block of ssd_chunk_gradients
constexpr int kSsdOwnSlices = 2; ///< of 64 state dims, whose gradients of B and C a block adds up
constexpr int kSsdGradientScalarBytes = 90 * 128; ///< of shared memory, beside tiles
constexpr int kSsdTokenHeads = 16; ///< of a block of ssd_token_gradients, a warp each
constexpr int kSsdSumWarps = 32;   ///< of a block of ssd_sum_chunks
constexpr int kSsdAddThreads = 256;

/// What the blocks of owner kOwner do, for kSlices times 64 state dims. The first makes all but the
/// gradients of the other owners' slices of B and C.
template <int kValueBytes, int kSlices, int kOwner>
struct SsdGradientPlan {
  static constexpr bool kFirst = kOwner == 0;
  static constexpr int kOwn = kSlices < kSsdOwnSlices ? kSlices : kSsdOwnSlices;
  static constexpr int kLoads = kFirst ? kSlices : kOwn; ///< phases that begin with a new slice
  static constexpr int kPhases = kLoads < 2 ? 2 : kLoads;
  static constexpr bool kKeysStay = kValueBytes == 2; ///< else they come with each slice of states
  static constexpr int kStages = kKeysStay ? (kLoads == 2 ? 3 : 2) : 1;
  static constexpr int kAhead = kStages - 1;           ///< slices on their way
  static constexpr int kBuffers = kStages > 1 ? 2 : 1; ///< of x and dy

  // Tiles in shared memory, by their numbers.
  static constexpr int kKeys = 0;
  static constexpr int kQueries = kKeys + (kKeysStay ? kLoads : kStages);
  static constexpr int kStates = kQueries + (kKeysStay ? kLoads : kStages);
  static constexpr int kStateGradients = kStates + kStages;
  static constexpr int kInputs = kStateGradients + kStages; ///< x
  static constexpr int kSlopes = kInputs + kBuffers;        ///< dy
  static constexpr int kWeights = kSlopes + kBuffers;
  static constexpr int kTiles = kWeights + 1;
};

/// Of shared memory, for activations of kValueBytes.
template <int kValueBytes, int kSlices>
constexpr int kSsdGradientBytes = SsdGradientPlan<kValueBytes, kSlices, 0>::kTiles* kSsdChunk*(
                                      kSsdGradientColumns* kValueBytes +
                                      (kValueBytes == 2 ? 0 : 16)) +
                                  kSsdGradientScalarBytes;

/// What is left per token of a pass (64 channels of a head in a chunk); see ssd_gradient_block.cuh.
enum SsdTokenSum {
  kCarriedSum,  ///< C_i . H^T dy_i; that of the last token has the sum of H G too
  kLeftSum,     ///< B_j . G^T x_j
  kInsideSum,   ///< sum_i exp(l_i - l_j) (C_i . B_j) (dy_i . x_j)
  kCrossingSum, ///< sum over j < k <= i of dt_j times these terms
  kSkipSum,     ///< per channel: sum_i dy_i x_i
  kTokenSums
};

/// Pointers are to values of the activations' dtype.
struct SsdGradientInputs {
  SsdRows dy;          ///< [T, H, P]
  SsdRows x;           ///< [T, H, P]
  SsdRows keys;        ///< B, [T, G, N]
  SsdRows queries;     ///< C, [T, G, N]
  const void* states;  ///< that come into the chunks, [chunks, H, P, N]
  const void* dstates; ///< gradients of those that leave them, [chunks, H, P, N]
  bool states_packed;  ///< rows of both are multiples of 16 bytes
  SsdSkipInputs D;
};

/// Dense within a token; strides, in elements, are from one to the next. The heads of a group are
/// shared by `parts` blocks; a block has at most kSsdOwnSlices slices of B and C, so that wide
/// states take several blocks, `owners`.
struct SsdGradientOutputs {
  void* dx;    ///< [T, H, P], of the activations' dtype
  void* dkeys; ///< [T, G, N], of the activations' dtype; with several parts fp32 [parts, T, G, N]
  void* dqueries; ///< likewise
  int dx_stride;  ///< of at most 2^31 - 1 elements in a chunk, as all three
  int dkeys_stride;
  int dqueries_stride;
  long long tokens;
  int parts;
  int owners;
  float* token_sums; ///< [chunks, H, passes, owners, kTokenSums, 64]; of other owners than the
                     ///< first only the first two sums
};

/// The gradients of time steps, and what chunks leave for the sums over all tokens.
struct SsdTimeGradients {
  void* ddt; ///< [T, H], of dt's dtype
  long long ddt_stride;
  float* chunk_sums; ///< [chunks, 2 H + D_columns]: a chunk's part of dA, of ddt_bias, and of dD
  int D_columns;     ///< H P where D is per channel, H where it is per head, 0 without D
  bool D_per_channel;
};

} // namespace baton
