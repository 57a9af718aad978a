// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/write_slots.h"

#include <cstdint>
#include <limits>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels_conv.h"

namespace baton::ops::cuda {
namespace {

constexpr std::int64_t kSlotPacks = 4; // of a thread (as in write_slots.cu)

/// A tensor [S, ...] whose rows are dense, as [S, row].
at::Tensor as_flat_rows(const at::Tensor& tensor, std::int64_t row_size) {
  return tensor.as_strided(
      {tensor.size(0), row_size}, {tensor.stride(0), 1}, tensor.storage_offset());
}

void write_rows(const at::Tensor& cache_SR, const at::Tensor& slots_B, const at::Tensor& values) {
  const bool packs = cache_SR.scalar_type() != at::kDouble && values.scalar_type() != at::kDouble &&
                     packs_fit(cache_SR, kSlotPack) && packs_fit(values, kSlotPack);
  const std::int64_t pack = packs ? kSlotPack : 1;
  const std::int64_t row = values.size(1);
  const std::int64_t of_block = pack * kSlotPacks * kRowThreads;
  const std::int64_t blocks = (row + of_block - 1) / of_block;
  TORCH_CHECK(
      values.size(0) * blocks <= std::numeric_limits<std::int32_t>::max(),
      "too much for one write to slots: ",
      values.sizes());
  const Launcher launcher(cache_SR);
  launcher.launch(
      write_slots_kernel(values.scalar_type(), cache_SR.scalar_type(), pack),
      {.grid = {static_cast<unsigned>(values.size(0) * blocks), 1, 1},
       .block = {kRowThreads, 1, 1}},
      values.const_data_ptr(),
      slots_B.const_data_ptr<int>(),
      cache_SR.mutable_data_ptr(),
      static_cast<long long>(row),
      static_cast<long long>(values.stride(0)),
      static_cast<long long>(cache_SR.stride(0)),
      static_cast<long long>(cache_SR.size(0)),
      static_cast<int>(blocks));
}

void write_slots_cuda(
    const at::Tensor& cache,
    const at::Tensor& slots_B,
    const at::Tensor& values) {
  check_write_slots(cache, slots_B, values);
  TORCH_CHECK(
      slots_B.device() == cache.device() && values.device() == cache.device(),
      "cache, slots and values must be on one device, got ",
      cache.device(),
      ", ",
      slots_B.device(),
      ", ",
      values.device());
  if (values.numel() == 0 || cache.numel() == 0) {
    return;
  }
  const bool dense = cache.select(0, 0).is_contiguous();
  const at::Tensor rows = dense ? cache : cache.contiguous();
  const std::int64_t row = values.numel() / values.size(0);
  write_rows(as_flat_rows(rows, row), slots_B.contiguous(), values.reshape({-1, row}));
  if (!dense) {
    cache.copy_(rows);
  }
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("write_slots_", &write_slots_cuda);
}

} // namespace baton::ops::cuda
