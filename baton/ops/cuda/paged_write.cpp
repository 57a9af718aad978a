// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <limits>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/heads.h"
#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/paged_arguments.cuh"
#include "baton/ops/cuda_kernels_attend.h"
#include "baton/ops/paged_attention.h"

namespace baton::ops::cuda {
namespace {

constexpr std::int64_t kPack = 4;

void check_inputs(
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP) {
  TORCH_CHECK(
      k_THP.sizes() == v_THP.sizes() && k_THP.size(1) == k_pages.size(2),
      "k and v must both be [T, Hk, P] of the pages ",
      k_pages.sizes(),
      ", got ",
      k_THP.sizes(),
      " and ",
      v_THP.sizes());
  for (const at::Tensor& tensor : {k_pages, k_THP, v_THP}) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16,
        "paged_write_ on a GPU takes float32 or bfloat16, got ",
        tensor.scalar_type());
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      k_pages.stride(3) == 1 && v_pages.stride(3) == 1,
      "paged_write_ on a GPU takes pages whose channels lie side by side");
  TORCH_CHECK(
      k_THP.numel() <= std::numeric_limits<std::int32_t>::max(),
      "paged_write_ takes at most 2^31 - 1 values at once, got ",
      k_THP.sizes());
}

PagedWriteArguments make_arguments(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B) {
  PagedWriteArguments given{};
  given.k = k_THP.const_data_ptr();
  given.v = v_THP.const_data_ptr();
  given.k_pages = k_pages.mutable_data_ptr();
  given.v_pages = v_pages.mutable_data_ptr();
  given.page_table = page_table_BM.const_data_ptr<int>();
  given.starts = starts_B1.const_data_ptr<int>();
  given.first_positions = first_positions_B.const_data_ptr<int>();
  given.k_token_stride = k_THP.stride(0);
  given.k_head_stride = k_THP.stride(1);
  given.v_token_stride = v_THP.stride(0);
  given.v_head_stride = v_THP.stride(1);
  given.k_page_stride = k_pages.stride(0);
  given.k_place_stride = k_pages.stride(1);
  given.k_page_head_stride = k_pages.stride(2);
  given.v_page_stride = v_pages.stride(0);
  given.v_place_stride = v_pages.stride(1);
  given.v_page_head_stride = v_pages.stride(2);
  given.sequences = static_cast<int>(page_table_BM.size(0));
  given.tokens = static_cast<int>(k_THP.size(0));
  given.heads = static_cast<int>(k_THP.size(1));
  given.table_width = static_cast<int>(page_table_BM.size(1));
  given.page_size = static_cast<int>(k_pages.size(1));
  given.pages = static_cast<int>(k_pages.size(0));
  given.channels = static_cast<int>(k_THP.size(2));
  return given;
}

void paged_write_cuda(
    at::Tensor& k_pages,
    at::Tensor& v_pages,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& first_positions_B) {
  check_pages(k_pages, v_pages, page_table_BM, starts_B1, first_positions_B, k_THP);
  check_inputs(k_pages, v_pages, k_THP, v_THP);
  if (k_THP.numel() == 0 || page_table_BM.size(0) == 0) {
    return;
  }
  const at::Tensor k = with_contiguous_channels(k_THP);
  const at::Tensor v = with_contiguous_channels(v_THP.to(k.scalar_type()));
  const at::Tensor table = page_table_BM.contiguous();
  const at::Tensor starts = starts_B1.contiguous();
  const at::Tensor first_positions = first_positions_B.contiguous();
  const PagedWriteArguments given =
      make_arguments(k_pages, v_pages, k, v, table, starts, first_positions);
  const bool packs = heads_fit(k, kPack) && heads_fit(v, kPack) && heads_fit(k_pages, kPack) &&
                     heads_fit(v_pages, kPack);
  const std::int64_t threads = k.numel() / (packs ? kPack : 1);
  const Launcher launcher(k);
  launcher.launch(
      paged_write_kernel(k.scalar_type(), k_pages.scalar_type(), packs ? kPack : 1),
      {.grid = {static_cast<unsigned>((threads + kRowThreads - 1) / kRowThreads), 1, 1},
       .block = {kRowThreads, 1, 1}},
      given);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("paged_write_", &paged_write_cuda);
}

} // namespace baton::ops::cuda
