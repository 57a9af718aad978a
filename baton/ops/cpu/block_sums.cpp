// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/block_sums.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace baton::ops {
namespace {

constexpr std::int64_t kColumnsPerTask = 1024;

template <class S>
void add_columns(
    S* data,
    std::int64_t blocks,
    std::int64_t width,
    std::int64_t begin,
    std::int64_t end) {
  for (std::int64_t step = 1; step < blocks; step *= 2) {
    for (std::int64_t block = 0; block + step < blocks; block += 2 * step) {
      S* sum = data + block * width;
      const S* other = data + (block + step) * width;
      for (std::int64_t column = begin; column < end; ++column) {
        sum[column] += other[column];
      }
    }
  }
}

template <class S>
void add_blocks(S* data, std::int64_t blocks, std::int64_t width) {
  const std::int64_t tasks = (width + kColumnsPerTask - 1) / kColumnsPerTask;
  at::parallel_for(0, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    add_columns(
        data, blocks, width, begin * kColumnsPerTask, std::min(width, end * kColumnsPerTask));
  });
}

} // namespace

at::Tensor sum_over_blocks(const at::Tensor& partials) {
  const std::int64_t blocks = partials.size(0);
  if (blocks == 0) {
    return at::zeros(partials.sizes().slice(1), partials.options());
  }
  const std::int64_t width = partials.numel() / blocks;
  if (partials.scalar_type() == at::kDouble) {
    add_blocks(partials.mutable_data_ptr<double>(), blocks, width);
  } else {
    add_blocks(partials.mutable_data_ptr<float>(), blocks, width);
  }
  return partials.select(0, 0);
}

} // namespace baton::ops
