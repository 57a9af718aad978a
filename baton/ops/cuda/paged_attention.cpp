// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/paged_attention.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/heads.h"
#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/paged_arguments.cuh"
#include "baton/ops/cuda_kernels_attend.h"

namespace baton::ops::cuda {
namespace {

constexpr std::int64_t kMmaPack = 8;   // bf16 values of 16 bytes
constexpr std::int64_t kLanePack = 4;  // fp32 values of 16 bytes
constexpr std::int64_t kManyRows = 32; // of a sequence, from which on larger tiles pay
constexpr std::int64_t kBlocks = 1056; // that fill any device several times over
constexpr std::int64_t kMostSplits = 128;
constexpr std::int64_t kFewestSplitKeys = 64;
constexpr std::int64_t kMostSplitKeys = 1024;
constexpr std::int64_t kLongKeys = 4096; // more of them take longer than all other blocks
constexpr std::int64_t kLongSplits = 8;
constexpr double kLog2OfE = 1.4426950408889634;

PagedAttentionKernel choose_kernel(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    std::int64_t sequences) {
  const std::int64_t channels = q_THP.size(2);
  const auto fit = [&](std::int64_t pack) {
    return heads_fit(q_THP, pack) && heads_fit(k_pages, pack) && heads_fit(v_pages, pack);
  };
  const bool bf16 = q_THP.scalar_type() == at::kBFloat16;
  if (bf16 && fit(kMmaPack)) {
    const std::int64_t rows = q_THP.size(0) * (q_THP.size(1) / k_pages.size(2));
    return paged_attention_tiles(channels, rows >= kManyRows * sequences);
  }
  return paged_attention_lanes(q_THP.scalar_type(), channels, !bf16 && fit(kLanePack));
}

/// How the keys of each sequence are cut, from shapes alone.
struct Splits {
  std::int64_t count;
  std::int64_t floor_keys;
};

Splits choose_splits(
    const PagedAttentionKernel& kernel,
    std::int64_t rows,
    std::int64_t sequences,
    std::int64_t tokens,
    std::int64_t key_heads,
    std::int64_t capacity) {
  const std::int64_t tiles = std::max(std::min(sequences, tokens), rows / kernel.rows);
  const std::int64_t most = std::clamp<std::int64_t>(capacity / kFewestSplitKeys, 1, kMostSplits);
  const std::int64_t wanted = std::clamp<std::int64_t>(kBlocks / (tiles * key_heads), 1, most);
  const std::int64_t floor_keys =
      std::clamp<std::int64_t>(kMostSplitKeys / wanted, kFewestSplitKeys, kMostSplitKeys);
  // Where blocks abound, one long sequence among short ones would still keep few of them busy. With
  // many rows the sums of splits would take more memory than that is worth.
  const bool many_rows = rows >= kManyRows * sequences;
  const std::int64_t for_long =
      many_rows ? 1 : std::min(kLongSplits, (capacity + kLongKeys - 1) / kLongKeys);
  return {std::max(wanted, for_long), floor_keys};
}

void check_inputs(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B) {
  check_pages(k_pages, v_pages, page_table_BM, starts_B1, kv_lengths_B, q_THP);
  TORCH_CHECK(
      q_THP.scalar_type() == k_pages.scalar_type(),
      "queries and pages must have one dtype, got ",
      q_THP.scalar_type(),
      " and ",
      k_pages.scalar_type());
  TORCH_CHECK_NOT_IMPLEMENTED(
      q_THP.scalar_type() == at::kFloat || q_THP.scalar_type() == at::kBFloat16,
      "paged_attention on a GPU takes float32 or bfloat16, got ",
      q_THP.scalar_type());
  TORCH_CHECK(
      q_THP.size(2) <= kMostPagedChannels,
      "paged_attention on a GPU takes heads of at most ",
      kMostPagedChannels,
      " channels, got ",
      q_THP.size(2));
  TORCH_CHECK(
      q_THP.size(0) * q_THP.size(1) <= std::numeric_limits<std::int32_t>::max(),
      "paged_attention takes at most 2^31 - 1 tokens times heads, got ",
      q_THP.sizes());
}

PagedArguments make_arguments(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double scale) {
  PagedArguments given{};
  given.q = q_THP.const_data_ptr();
  given.k_pages = k_pages.const_data_ptr();
  given.v_pages = v_pages.const_data_ptr();
  given.page_table = page_table_BM.const_data_ptr<int>();
  given.starts = starts_B1.const_data_ptr<int>();
  given.kv_lengths = kv_lengths_B.const_data_ptr<int>();
  given.q_token_stride = q_THP.stride(0);
  given.q_head_stride = q_THP.stride(1);
  given.k_page_stride = k_pages.stride(0);
  given.k_token_stride = k_pages.stride(1);
  given.k_head_stride = k_pages.stride(2);
  given.v_page_stride = v_pages.stride(0);
  given.v_token_stride = v_pages.stride(1);
  given.v_head_stride = v_pages.stride(2);
  given.sequences = static_cast<int>(page_table_BM.size(0));
  given.tokens = static_cast<int>(q_THP.size(0));
  given.table_width = static_cast<int>(page_table_BM.size(1));
  given.page_size = static_cast<int>(k_pages.size(1));
  given.pages = static_cast<int>(k_pages.size(0));
  given.group = static_cast<int>(q_THP.size(1) / k_pages.size(2));
  given.channels = static_cast<int>(q_THP.size(2));
  given.scale = static_cast<float>(scale * kLog2OfE);
  return given;
}

at::Tensor paged_attention_cuda(
    const at::Tensor& q_THP,
    const at::Tensor& k_pages,
    const at::Tensor& v_pages,
    const at::Tensor& page_table_BM,
    const at::Tensor& starts_B1,
    const at::Tensor& kv_lengths_B,
    double scale) {
  check_inputs(q_THP, k_pages, v_pages, page_table_BM, starts_B1, kv_lengths_B);
  at::Tensor out_THP = at::empty(q_THP.sizes(), q_THP.options());
  const std::int64_t sequences = page_table_BM.size(0);
  if (out_THP.numel() == 0 || sequences == 0) {
    return out_THP;
  }
  const at::Tensor q = with_contiguous_channels(q_THP);
  const at::Tensor k = with_contiguous_channels(k_pages);
  const at::Tensor v = with_contiguous_channels(v_pages);
  const at::Tensor table = page_table_BM.contiguous();
  const at::Tensor starts = starts_B1.contiguous();
  const at::Tensor lengths = kv_lengths_B.contiguous();
  const PagedAttentionKernel kernel = choose_kernel(q, k, v, sequences);
  PagedArguments given = make_arguments(q, k, v, table, starts, lengths, scale);
  const std::int64_t tokens = q.size(0);
  const std::int64_t heads = q.size(1);
  const std::int64_t rows = tokens * given.group;
  const Splits splits =
      choose_splits(kernel, rows, sequences, tokens, k.size(2), table.size(1) * given.page_size);
  given.floor_keys = static_cast<int>(splits.floor_keys);
  given.out = out_THP.mutable_data_ptr();
  at::Tensor partials;
  at::Tensor statistics;
  if (splits.count > 1) {
    const at::TensorOptions options = q.options().dtype(at::kFloat);
    partials = at::empty({splits.count, tokens, heads, q.size(2)}, options);
    statistics = at::empty({splits.count, tokens, heads, 2}, options);
    given.partials = partials.mutable_data_ptr<float>();
    given.statistics = statistics.mutable_data_ptr<float>();
  }
  const Launcher launcher(q);
  launcher.launch(
      kernel.spec,
      {.grid =
           {static_cast<unsigned>(rows / kernel.rows + sequences),
            static_cast<unsigned>(k.size(2)),
            static_cast<unsigned>(splits.count)},
       .block = {kPagedThreads, 1, 1},
       .shared_bytes = static_cast<unsigned>(kernel.shared_bytes)},
      given);
  if (splits.count > 1) {
    launcher.launch(
        merge_splits_kernel(q.scalar_type()),
        {.grid = {static_cast<unsigned>(tokens * heads), 1, 1}, .block = {kPagedThreads, 1, 1}},
        static_cast<const float*>(given.partials),
        static_cast<const float*>(given.statistics),
        given.out,
        static_cast<int>(splits.count),
        given.channels);
  }
  return out_THP;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("paged_attention", &paged_attention_cuda);
}

} // namespace baton::ops::cuda
