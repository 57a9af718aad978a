// SPDX-License-Identifier: Apache-2.0
// What kernels of the scan take, as their host code fills it in.
#pragma once

namespace baton {

/// Tokens of a chunk, counted from its sequence's start: what states are kept for.
constexpr int kSsdChunk = 64;

/// Sizes, and where sequences begin. The stream is cut into segments of segment_tokens (a multiple
/// of kSsdChunk, counted from a sequence's start; more than T where a sequence is one segment). The
/// segments of sequence b begin at number starts[b] / segment_tokens + b, and its chunks at number
/// starts[b] / kSsdChunk + b: no two share a number, some numbers are unused, and there are
/// T / segment_tokens + B and T / kSsdChunk + B of them.
struct SsdLayout {
  const int* starts; ///< [sequences + 1]
  long long segment_tokens;
  int sequences;
  int heads;
  int head_dim;
  int groups;
  int state_dim;
};

/// Rows of an input, one a token, each of them dense.
struct SsdRows {
  const void* data;
  long long stride; ///< values between tokens
  bool packed;      ///< base, stride and innermost size are multiples of 16 bytes
};

/// What time steps are made of.
struct SsdTimeInputs {
  const void* dt; ///< [T, H], fp32 or bf16
  long long token_stride;
  long long head_stride;
  const float* A_H;
  const float* bias_H; ///< null: none
  float min;
  float max;
  bool dt_is_fp32;
  bool softplus;
  const unsigned long long* marks; ///< bit t % 64 of word t / 64: nothing before token t matters to
                                   ///< it and later ones; null: no marks
};

/// What a mark adds to the running sum of dt A: enough that exp() of any sum with it is 0 in fp32.
constexpr double kSsdForget = -192;

constexpr int kSsdMarkThreads = 128; ///< of a block of ssd_mark_starts

/// States [count, H, P, N] in slots that lie `stride` values apart.
struct SsdStates {
  const float* data; ///< null: all zero
  const int* slots;  ///< which to take, -1 for zero; null: the first the first
  long long stride;
  int count;
  bool packed; ///< base, stride and N are multiples of 16 bytes
};

/// Widest convolution that a scan makes on its way.
constexpr int kSsdConvWidth = 4;

/// The causal convolution, with SiLU, that makes x of what a scan is given in its place, where no
/// sequence is cut or joined to others. Parameters are bf16, or fp32 where their flag says so.
struct SsdConvolution {
  const void* weight; ///< [H P, width], dense; null: x is given
  const void* bias;   ///< [H P], or null
  int width;          ///< 1 to kSsdConvWidth
  bool fp32_weight;
  bool fp32_bias;
};

/// Operands of a sweep: x and B forwards, dy and C backwards, and the states to start from.
struct SsdSweepInputs {
  SsdRows values;
  SsdRows keys;
  SsdStates incoming; ///< one a segment, or a sequence: see SsdSweepOutputs
};

/// What a sweep leaves; null where it is not wanted. ssd_hopper_sweep leaves chunk_states as shared
/// memory holds them: the panels of a head's state one after the other.
struct SsdSweepOutputs {
  void* chunk_states = nullptr; ///< [chunks, H, P, N] in the inputs' dtype: what comes into each
  float* states = nullptr;      ///< [segments, H, P, N]: what leaves each segment
  float* log_decays = nullptr;  ///< [segments, H]
  bool skip_last = false;       ///< the walk's last segment of each sequence is not walked
  /// Sequences have two segments at most, and `states` receives what comes into each of them: a
  /// walk starts from its sequence's incoming state, which goes to the entry of its first segment,
  /// and what leaves that one to the entry of the next. With skip_last, without log_decays.
  bool hands_on = false;
};

/// A walk forwards, or backwards from the end.
struct SsdSweepWalk {
  SsdSweepInputs in{};
  SsdSweepOutputs out{};
  bool reverse = false;
};

/// The walks of a launch: block row w makes walk w.
struct SsdSweepWalks {
  SsdSweepWalk of[2];
};

constexpr int kSsdCombineThreads = 256; ///< of a block of ssd_combine
constexpr int kSsdCombineElements = 4;  ///< of a thread, kSsdCombineThreads apart

/// D of head h and channel p is data[h * head_stride + p * channel_stride].
struct SsdSkipInputs {
  const float* data; ///< null: none
  long long head_stride;
  long long channel_stride; ///< 0 where D has one value a head
};

/// Operands of the scan.
struct SsdForwardInputs {
  SsdRows x;
  SsdRows B;
  SsdRows C;
  SsdSkipInputs D;
  SsdStates incoming; ///< one a segment
  SsdConvolution convolution;
};

} // namespace baton
