// SPDX-License-Identifier: Apache-2.0
// What every part of the CPU scan starts from: the chunks of the stream, time steps, decays, tiles.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <hwy/aligned_allocator.h>

#include "baton/ops/cpu/blas_threads.h"
#include "baton/ops/cpu/ssd_rows.h"
#include "baton/ops/ssd_inputs.h"

namespace baton::ops::cpu {

/// Tokens of a chunk. A multiple of the widest vector, so that tiles of scores have aligned rows.
inline constexpr std::int64_t kSsdChunk = 64;
/// Elements that vector loads may touch past the end of a row.
inline constexpr std::int64_t kSsdPadding = 16;

struct SsdChunk {
  std::int64_t sequence;
  std::int64_t first; ///< its first token in the stream
  std::int64_t rows;  ///< its tokens, 1 to kSsdChunk
  bool opens;         ///< the first chunk of its sequence
  bool closes;        ///< the last one
};

/// Time steps and decays of all tokens, [H, T] with kSsdPadding after each head: 3 / P of x's size.
template <class Real>
struct SsdPlan {
  SsdPlan(
      const SsdSizes& sizes,
      const at::Tensor& dt_TH,
      const at::Tensor& A_H,
      const at::Tensor& starts,
      const SsdTimeStep& time_step);

  SsdSizes sizes;
  std::vector<std::int64_t> starts;
  std::vector<SsdChunk> chunks;
  TimeStepRule rule;
  at::Tensor raw_TH, bias_H, A_H; ///< dense, in Real; no bias: undefined
  at::Tensor dt_HT, high_HT, low_HT;

  std::int64_t head_stride() const { return sizes.T + kSsdPadding; }
  const Real* bias() const { return bias_H.defined() ? bias_H.const_data_ptr<Real>() : nullptr; }
  const Real* dt(std::int64_t head, std::int64_t token) const {
    return dt_HT.const_data_ptr<Real>() + head * head_stride() + token;
  }
  RunningSums<Real> sums(std::int64_t head, std::int64_t token) const {
    const std::int64_t at = head * head_stride() + token;
    return {high_HT.const_data_ptr<Real>() + at, low_HT.const_data_ptr<Real>() + at};
  }
  double log_decay(const SsdChunk& chunk, std::int64_t head) const {
    const RunningSums<Real> last = sums(head, chunk.first + chunk.rows - 1);
    return static_cast<double>(*last.high) + static_cast<double>(*last.low);
  }
  Real decay(const SsdChunk& chunk, std::int64_t head) const {
    return static_cast<Real>(std::exp(log_decay(chunk, head)));
  }
  /// Chunks worked on between two scans over states: enough items for many threads, few enough that
  /// their states (4 H P N bytes a chunk) stay near the processor.
  std::int64_t window() const;
  /// Heads of a group that share one tile.
  std::int64_t head_block() const;
};

/// Rows of an input, one a token, dense within the row.
template <class In>
struct TokenRows {
  const In* data;
  std::int64_t stride;
};

/// `tensor` itself if its rows are dense and do not overlap, else a dense copy.
at::Tensor with_dense_rows(const at::Tensor& tensor);

/// D as [H, P] in Real; undefined where there is none.
template <class Real>
at::Tensor expanded_skip(const std::optional<at::Tensor>& D, const SsdSizes& sizes) {
  if (!D.has_value()) {
    return {};
  }
  const at::Tensor wide = D->to(c10::CppTypeToScalarType<Real>::value);
  return (D->dim() == 1 ? wide.unsqueeze(1).expand({sizes.H, sizes.P}) : wide).contiguous();
}

template <class In>
TokenRows<In> token_rows(const at::Tensor& with_dense_rows) {
  const std::int64_t columns = with_dense_rows.size(1) * with_dense_rows.size(2);
  const bool one_row = with_dense_rows.size(0) <= 1;
  return {with_dense_rows.const_data_ptr<In>(), one_row ? columns : with_dense_rows.stride(0)};
}

/// Columns [offset, offset + columns) of a chunk's rows: in place if they have the type of the
/// sums, else widened into `scratch`.
template <class In, class Real>
ConstTile<Real> load_tile(
    TokenRows<In> source,
    const SsdChunk& chunk,
    std::int64_t offset,
    std::int64_t columns,
    Real* scratch) {
  const In* from = source.data + chunk.first * source.stride + offset;
  if constexpr (std::is_same_v<In, Real>) {
    return {from, source.stride};
  } else {
    for (std::int64_t r = 0; r < chunk.rows; ++r) {
      widen_row(columns, from + r * source.stride, scratch + r * columns);
    }
    return {scratch, columns};
  }
}

/// Where a chunk's rows of an output are made: in place, or in `scratch` until stored.
template <class Out, class Real>
Tile<Real> output_tile(Out* to, std::int64_t stride, std::int64_t columns, Real* scratch) {
  if constexpr (std::is_same_v<Out, Real>) {
    return {to, stride};
  } else {
    return {scratch, columns};
  }
}

template <class Out, class Real>
void store_tile(
    ConstTile<Real> tile,
    std::int64_t rows,
    std::int64_t columns,
    Out* to,
    std::int64_t stride) {
  if constexpr (!std::is_same_v<Out, Real>) {
    for (std::int64_t r = 0; r < rows; ++r) {
      narrow_row(columns, tile.data + r * tile.stride, to + r * stride);
    }
  }
}

template <class Real>
using Scratch = hwy::AlignedFreeUniquePtr<Real[]>;

template <class Real>
Scratch<Real> make_scratch(std::int64_t elements) {
  return hwy::AllocateAligned<Real>(static_cast<std::size_t>(elements + kSsdPadding));
}

/// Runs body(worker, item) for all items; `Worker` is built once a thread and holds its scratch.
/// Matrix products inside stay on their thread and give the same bits for any number of threads.
template <class MakeWorker, class Body>
void for_each_item(std::int64_t items, const MakeWorker& make_worker, const Body& body) {
  if (items == 0) {
    return;
  }
  at::parallel_for(0, items, 1, [&](std::int64_t begin, std::int64_t end) {
    const OneThreadBlas one_thread;
    auto worker = make_worker();
    for (std::int64_t item = begin; item < end; ++item) {
      body(worker, item);
    }
  });
}

} // namespace baton::ops::cpu
