// SPDX-License-Identifier: Apache-2.0
// One token of the scan for each of several sequences: every state is read and written once.
#include "baton/ops/cuda/ssd_chunks.cuh"

namespace baton {

/// Rows [p, :] of a state, 4 values of each lane at a time: how a block of kRowThreads threads
/// shares kRows of them.
template <int kN>
struct SsdStepShape {
  static constexpr int kLanes = kN >= 128 ? kWarpThreads : kN / 4; ///< of a row
  static constexpr int kParts = kN / (kLanes * 4);                 ///< groups of 4 of a lane
  static constexpr int kRowsAtOnce = kRowThreads / kLanes;
  static constexpr int kRowsOfLane = 4 / kParts; ///< so that 64 bytes of a thread are on their way
  static constexpr int kRows = kRowsAtOnce * kRowsOfLane;
};

/// Four values of a row from `first` on, with zeros beyond `size`.
template <typename T>
__device__ void read_four(float (&to)[4], const T* row, int first, int size, bool packed) {
  if (packed) {
    if (first < size) {
      const auto pack = load_pack<T, 4>(row + first);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[i] = widened(pack.values[i]);
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = first + i < size ? widened(row[first + i]) : 0.0f;
  }
}

__device__ inline void
write_four(const float (&from)[4], float* row, int first, int size, bool packed) {
  if (packed) {
    if (first < size) {
      store_pack(Pack<float, 4>{from[0], from[1], from[2], from[3]}, row + first);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + i < size) {
      row[first + i] = from[i];
    }
  }
}

/// What a lane holds of one row.
template <int kN>
using SsdStepRow = float[SsdStepShape<kN>::kParts][4];

/// A lane's part of a row of `size` values.
template <int kN, typename T>
__device__ void read_row(SsdStepRow<kN>& to, const T* row, int lane, int size, bool packed) {
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
    read_four(to[part], row, (part * SsdStepShape<kN>::kLanes + lane) * 4, size, packed);
  }
}

template <int kN>
__device__ void write_row(const SsdStepRow<kN>& from, float* row, int lane, int size, bool packed) {
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
    write_four(from[part], row, (part * SsdStepShape<kN>::kLanes + lane) * 4, size, packed);
  }
}

/// h <- decay h + input B on a row of the state. Returns h . C, for all lanes of the row.
template <int kN>
__device__ float advance_row(
    SsdStepRow<kN>& h,
    float decay,
    float input,
    const SsdStepRow<kN>& B,
    const SsdStepRow<kN>& C) {
  float sum = 0;
#pragma unroll
  for (int part = 0; part < SsdStepShape<kN>::kParts; ++part) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      h[part][j] = fmaf(decay, h[part][j], input * B[part][j]);
      sum = fmaf(h[part][j], C[part][j], sum);
    }
  }
#pragma unroll
  for (int by = SsdStepShape<kN>::kLanes / 2; by > 0; by /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, by);
  }
  return sum;
}

/// h <- exp(dt A) h + dt x B^T and y = h C + D x on the states of slots[b], for row b of the
/// inputs. Block ((b H) + head) tiles + tile takes SsdStepShape::kRows channels. Sequences, heads
/// and sizes are those of the layout, whose starts are not read. y is dense [B, H, P].
template <typename T, int kN>
__global__ void __launch_bounds__(kRowThreads)
    ssd_step(SsdLayout layout, SsdTimeInputs time, SsdForwardInputs in, float* states, T* y) {
  using Rows = SsdStepShape<kN>;
  const int tiles = (layout.head_dim + Rows::kRows - 1) / Rows::kRows;
  const int b = blockIdx.x / tiles / layout.heads;
  const int head = blockIdx.x / tiles % layout.heads;
  const int first_channel =
      blockIdx.x % tiles * Rows::kRows + static_cast<int>(threadIdx.x) / Rows::kLanes;
  const int lane = threadIdx.x % Rows::kLanes;
  const int N = layout.state_dim;
  const long long value = static_cast<long long>(head) * layout.head_dim;
  const long long key = static_cast<long long>(head / (layout.heads / layout.groups)) * N;
  const int slot = in.incoming.slots[b];
  const bool kept = slot >= 0 && slot < in.incoming.count;
  float* state = states + (kept ? slot : 0) * in.incoming.stride + value * N;
  SsdStepRow<kN> h[Rows::kRowsOfLane] = {};
#pragma unroll
  for (int i = 0; i < Rows::kRowsOfLane; ++i) {
    const int channel = first_channel + i * Rows::kRowsAtOnce;
    if (kept && channel < layout.head_dim) {
      read_row<kN>(h[i], state + channel * N, lane, N, in.incoming.packed);
    }
  }
  SsdStepRow<kN> B = {};
  SsdStepRow<kN> C = {};
  read_row<kN>(B, static_cast<const T*>(in.B.data) + b * in.B.stride + key, lane, N, in.B.packed);
  read_row<kN>(C, static_cast<const T*>(in.C.data) + b * in.C.stride + key, lane, N, in.C.packed);
  const float bias = time.bias_H == nullptr ? 0.0f : time.bias_H[head];
  const float step = time_step(time, bias, read_raw_step(time, head, b));
  const float decay = expf(step * time.A_H[head]);
  const T* x_P = static_cast<const T*>(in.x.data) + b * in.x.stride + value;
  T* y_P = y + static_cast<long long>(b) * layout.heads * layout.head_dim + value;
#pragma unroll
  for (int i = 0; i < Rows::kRowsOfLane; ++i) {
    const int channel = first_channel + i * Rows::kRowsAtOnce;
    const bool inside = channel < layout.head_dim;
    const float x = inside ? widened(x_P[channel]) : 0.0f;
    float out = advance_row<kN>(h[i], decay, step * x, B, C);
    if (kept && inside) {
      write_row<kN>(h[i], state + channel * N, lane, N, in.incoming.packed);
    }
    if (lane == 0 && inside) {
      if (in.D.data != nullptr) {
        out = fmaf(in.D.data[head * in.D.head_stride + channel * in.D.channel_stride], x, out);
      }
      y_P[channel] = static_cast<T>(out);
    }
  }
}

} // namespace baton
