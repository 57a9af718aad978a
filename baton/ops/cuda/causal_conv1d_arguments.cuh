// SPDX-License-Identifier: Apache-2.0
// What the kernels of the causal convolution are given; the same for host and device.
#pragma once

namespace baton {

constexpr int kConvThreads = 128;
constexpr int kConvLanes = 32; // threads that take neighbouring channels of the same tokens
constexpr int kConvRuns = kConvThreads / kConvLanes; // of tokens, that a block takes

constexpr int kConvStepThreads = 64;

/// Strides are in elements. Parameters and states have the dtype of x, or are fp32 where their flag
/// says so.
struct ConvArguments {
  const void* x;          ///< [tokens, channels]
  const void* weight;     ///< [channels, width], dense
  const void* bias;       ///< [channels], or null
  const int* starts;      ///< [sequences + 1]
  const void* states;     ///< [slots, channels, width - 1], or null: zeros
  const int* slots_B;     ///< [sequences], or null: slot b for sequence b
  long long state_stride; ///< from a slot to the next
  int x_stride;           ///< of at most 2^31 - 1 bytes, as all strides of rows
  int tokens;
  int channels;
  int width; ///< K
  int sequences;
  int slots;
  int columns; ///< blocks that share the channels of a row
  int tiles;   ///< of tokens; a block is one tile of one column
  int run;     ///< tokens of a thread, of which kConvRuns make a tile
  int fp32_weight;
  int fp32_bias;
  int fp32_states;
  int silu;
};

/// What the backward is given beside them.
struct ConvGradientArguments {
  const void* dy;            ///< [tokens, channels]
  const void* dfinal_states; ///< [sequences, channels, width - 1], dense, or null
  void* dx;                  ///< [tokens, channels]
  void* partials;            ///< [tiles, width + 1, channels] in the type of sums; the bias last
  int dy_stride;
  int dx_stride;
  int fp32_dfinal_states;
};

} // namespace baton
