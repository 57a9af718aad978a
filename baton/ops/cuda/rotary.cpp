// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rotary.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda_kernels_rows.h"
#include "baton/ops/tuning.h"

namespace baton::ops::cuda {
namespace {

// A thread computes the angles of its pairs once for its heads, as many as leave about this many
// threads, which fill an H100.
constexpr std::int64_t kEnoughThreads = 128 * 1024;

std::int64_t divide_up(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}

/// Channels that a thread reads at once.
std::int64_t pack_for(const at::Tensor& x_THP, std::int64_t pairs) {
  const std::int64_t widest = row_pack(x_THP.scalar_type());
  const auto bytes = static_cast<std::uintptr_t>(widest * x_THP.element_size());
  const bool fit = pairs % widest == 0 && x_THP.size(2) % widest == 0 &&
                   (x_THP.size(0) <= 1 || x_THP.stride(0) % widest == 0) &&
                   (x_THP.size(1) <= 1 || x_THP.stride(1) % widest == 0) &&
                   reinterpret_cast<std::uintptr_t>(x_THP.const_data_ptr()) % bytes == 0;
  return fit ? widest : 1;
}

at::Tensor rotary_cuda(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double attention_factor,
    bool interleaved) {
  check_rotary(x_THP, positions_T, inverse_frequencies);
  at::Tensor y_THP = at::empty(x_THP.sizes(), x_THP.options());
  if (y_THP.numel() == 0) {
    return y_THP;
  }
  const bool dense_heads = x_THP.size(2) <= 1 || x_THP.stride(2) == 1;
  const at::Tensor x = dense_heads ? x_THP : x_THP.contiguous();
  const at::Tensor positions = positions_T.contiguous();
  const bool fp64 = inverse_frequencies.scalar_type() == at::kDouble;
  const at::Tensor frequencies =
      inverse_frequencies.to(fp64 ? at::kDouble : at::kFloat).contiguous();
  const std::int64_t pairs = frequencies.size(0);
  const std::int64_t pack = pack_for(x, pairs);
  const std::int64_t tokens = x.size(0);
  const std::int64_t heads = x.size(1);
  const std::int64_t threads = tokens * ((x.size(2) - pairs) / pack); // of one head
  const Launcher launcher(x);
  const RotaryTuning& tuning = tuning_of(launcher.arch(), x.numel() * x.element_size()).rotary;
  std::int64_t heads_of_thread = std::min(heads, tuning.heads);
  while (heads_of_thread > 1 && threads * divide_up(heads, heads_of_thread) < kEnoughThreads) {
    heads_of_thread = divide_up(heads_of_thread, 2);
  }
  const std::int64_t blocks = divide_up(threads, kRowThreads);
  TORCH_CHECK(
      blocks <= std::numeric_limits<std::int32_t>::max(),
      "rotary on a GPU takes 2^31 - 1 blocks of values, got ",
      blocks);
  launcher.launch(
      rotary_kernel(x.scalar_type(), pack, interleaved),
      {.grid =
           {static_cast<unsigned>(blocks),
            static_cast<unsigned>(divide_up(heads, heads_of_thread)),
            1},
       .block = {kRowThreads, 1, 1}},
      x.const_data_ptr(),
      y_THP.mutable_data_ptr(),
      positions.const_data_ptr(),
      fp64 ? nullptr : frequencies.const_data_ptr(),
      fp64 ? frequencies.const_data_ptr() : nullptr,
      static_cast<long long>(x.stride(0)),
      static_cast<long long>(x.stride(1)),
      static_cast<long long>(tokens),
      static_cast<int>(heads),
      static_cast<int>(x.size(2)),
      static_cast<int>(pairs),
      static_cast<int>(heads_of_thread),
      attention_factor);
  return y_THP;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("rotary", &rotary_cuda);
}

} // namespace baton::ops::cuda
