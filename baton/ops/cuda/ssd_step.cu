// SPDX-License-Identifier: Apache-2.0
// One token of the scan for each of several sequences: every state is read and written once, past
// the caches as far as they can be told, since nobody reads it again before the next token.
#include "baton/ops/cuda/launch_overlap.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

constexpr int kSsdStepThreads = 64;

/// How a block shares rows [p, :] of a state, padded to kN columns: kLanes neighbouring threads, as
/// few as read whole lines together, take a row in turns of four columns each, so that its sum
/// takes few steps. 64 bytes of each thread are on their way at the same time.
template <int kN>
struct SsdStepShape {
  static constexpr int kLanes = kN <= 128 ? 8 : 16;
  static constexpr int kParts = kN / (kLanes * 4); ///< groups of four columns of a thread
  static constexpr int kRowsAtOnce = kSsdStepThreads / kLanes;
  static constexpr int kRowsOfLane = kParts < 4 ? 4 / kParts : 1;
  static constexpr int kRows = kRowsAtOnce * kRowsOfLane;

  __device__ static int column(int part) {
    return (part * kLanes + static_cast<int>(threadIdx.x) % kLanes) * 4;
  }
};

/// What a thread holds of a row.
template <int kN, typename T>
using SsdStepRow = Pack<T, 4>[SsdStepShape<kN>::kParts];

/// Its part of a row of `size` values, with zeros beyond. kPacked: four at a time.
template <int kN, bool kPacked, typename T>
__device__ void read_row(SsdStepRow<kN, T>& to, const T* row, int size) {
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
    const int column = SsdStepShape<kN>::column(part);
    if constexpr (kPacked) {
      if (column < size) {
        to[part] = load_pack<T, 4>(row + column);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        to[part].values[j] = column + j < size ? row[column + j] : T(0.0f);
      }
    }
  }
}

template <int kN, bool kPacked>
__device__ void read_state(SsdStepRow<kN, float>& to, const float* row, int size) {
  if constexpr (!kPacked) {
    read_row<kN, false>(to, row, size);
    return;
  }
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
    const int column = SsdStepShape<kN>::column(part);
    if (column < size) {
      const float4 four = __ldcs(reinterpret_cast<const float4*>(row + column));
      to[part] = {four.x, four.y, four.z, four.w};
    }
  }
}

template <int kN, bool kPacked>
__device__ void write_state(const SsdStepRow<kN, float>& from, float* row, int size) {
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
    const int column = SsdStepShape<kN>::column(part);
    const auto& four = from[part].values;
    if constexpr (kPacked) {
      if (column < size) {
        __stcs(
            reinterpret_cast<float4*>(row + column),
            make_float4(four[0], four[1], four[2], four[3]));
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column + j < size) {
          row[column + j] = four[j];
        }
      }
    }
  }
}

/// h <- decay h + input B on a thread's part of a row. Returns what it adds to h . C.
template <int kN, typename T>
__device__ float advance_row(
    SsdStepRow<kN, float>& h,
    float decay,
    float input,
    const SsdStepRow<kN, T>& B,
    const SsdStepRow<kN, T>& C) {
  float sum = 0;
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
    float of_B[4];
    float of_C[4];
    widen(B[part], of_B);
    widen(C[part], of_C);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& value = h[part].values[j];
      value = fmaf(decay, value, input * of_B[j]);
      sum = fmaf(value, of_C[j], sum);
    }
  }
  return sum;
}

/// A raw time step as it lies in memory: a conversion where it is read would wait for it.
struct SsdStepBits {
  unsigned bits;

  __device__ SsdStepBits(const SsdTimeInputs& time, int head, int b) {
    const long long at = b * time.token_stride + head * time.head_stride;
    bits = time.dt_is_fp32 ? static_cast<const unsigned*>(time.dt)[at]
                           : static_cast<const unsigned short*>(time.dt)[at];
  }
  __device__ float value(const SsdTimeInputs& time) const {
    return __uint_as_float(time.dt_is_fp32 ? bits : bits << 16);
  }
};

/// h <- exp(dt A) h + dt x B^T and y = h C + D x on the states of slots[b], for row b of the
/// inputs. Block (tile, head, b) takes SsdStepShape::kRows channels. Sequences, heads and sizes are
/// those of the layout, whose starts are not read. y is dense [B, H, P]. kPacked: rows of B, C and
/// the states can be read four values at a time. A head's group is the upper half of the product
/// with group_factor, or the head itself where that is 0: a division would hold up all reads. All
/// reads come first, and nothing that waits for one of them comes before the reads of the states.
/// Launched to overlap: a step is so short that beginning and ending count.
template <typename T, int kN, bool kPacked>
__global__ void __launch_bounds__(kSsdStepThreads) ssd_step(
    SsdLayout layout,
    SsdTimeInputs time,
    SsdForwardInputs in,
    float* states,
    T* y,
    unsigned group_factor) {
  using Shape = SsdStepShape<kN>;
  const int head = blockIdx.y;
  const int b = blockIdx.z;
  let_next_begin();
  wait_for_launch_before();
  const int slot = in.incoming.slots[b]; // first, since the states wait for it
  const int first = blockIdx.x * Shape::kRows + static_cast<int>(threadIdx.x) / Shape::kLanes;
  const int N = layout.state_dim;
  const long long value = static_cast<long long>(head) * layout.head_dim;
  const SsdStepBits raw(time, head, b);
  const float A = time.A_H[head];
  const float bias = (time.bias_H == nullptr ? time.A_H : time.bias_H)[head];
  const bool skips = in.D.data != nullptr;
  const float* D_P = skips ? in.D.data + head * in.D.head_stride : time.A_H;
  const T* x_P = static_cast<const T*>(in.x.data) + b * in.x.stride + value;
  T x[Shape::kRowsOfLane];
  float D[Shape::kRowsOfLane];
#pragma unroll
  for (int i = 0; i < Shape::kRowsOfLane; ++i) {
    const int channel = min(first + i * Shape::kRowsAtOnce, layout.head_dim - 1);
    x[i] = x_P[channel];
    D[i] = D_P[skips ? channel * in.D.channel_stride : 0];
  }
  const int group = group_factor == 0 ? head : static_cast<int>(__umulhi(head, group_factor));
  const long long key = static_cast<long long>(group) * N;
  SsdStepRow<kN, T> B = {};
  SsdStepRow<kN, T> C = {};
  read_row<kN, kPacked>(B, static_cast<const T*>(in.B.data) + b * in.B.stride + key, N);
  read_row<kN, kPacked>(C, static_cast<const T*>(in.C.data) + b * in.C.stride + key, N);
  const bool kept = slot >= 0 && slot < in.incoming.count;
  float* state = states + (kept ? slot : 0) * in.incoming.stride + value * N;
  SsdStepRow<kN, float> h[Shape::kRowsOfLane] = {};
#pragma unroll
  for (int i = 0; i < Shape::kRowsOfLane; ++i) {
    const int channel = first + i * Shape::kRowsAtOnce;
    if (kept && channel < layout.head_dim) {
      read_state<kN, kPacked>(h[i], state + channel * N, N);
    }
  }
  const float step = time_step(time, time.bias_H == nullptr ? 0.0f : bias, raw.value(time));
  const float decay = expf(step * A);
  T* y_P = y + static_cast<long long>(b) * layout.heads * layout.head_dim + value;
#pragma unroll
  for (int i = 0; i < Shape::kRowsOfLane; ++i) {
    const int channel = first + i * Shape::kRowsAtOnce;
    const bool inside = channel < layout.head_dim;
    const float of_x = widened(x[i]);
    float out = advance_row<kN>(h[i], decay, step * of_x, B, C);
    if (kept && inside) {
      write_state<kN, kPacked>(h[i], state + channel * N, N);
    }
#pragma unroll
    for (int by = Shape::kLanes / 2; by > 0; by /= 2) {
      out += __shfl_xor_sync(0xffffffffu, out, by);
    }
    if (threadIdx.x % Shape::kLanes == 0 && inside) {
      y_P[channel] = static_cast<T>(skips ? fmaf(D[i], of_x, out) : out);
    }
  }
}

} // namespace baton
