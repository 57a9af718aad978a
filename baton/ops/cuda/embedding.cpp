// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/embedding.h"

#include <cstdint>
#include <limits>
#include <optional>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels_embedding.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

at::Tensor embedding_cuda(const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
  check_embedding(weight_VD, tokens_T);
  return at::embedding(weight_VD, tokens_T);
}

at::Tensor embedding_backward_cuda(
    const at::Tensor& dout,
    const at::Tensor& tokens_T,
    std::int64_t vocabulary) {
  check_embedding_backward(dout, tokens_T);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const at::Tensor dout_TD = as_rows(dout);
  const std::int64_t tokens = dout_TD.size(0);
  const std::int64_t channels = dout_TD.size(1);
  TORCH_CHECK(
      tokens <= kMost && vocabulary <= kMost,
      "the gradient of embedding takes at most 2^31 - 1 tokens and ids, got ",
      tokens,
      " and ",
      vocabulary);
  at::Tensor dweight_VD = at::zeros({vocabulary, channels}, dout_TD.options());
  if (dout_TD.numel() == 0) {
    return dweight_VD;
  }
  const auto [ids, order] = at::sort(
      tokens_T.to(at::kInt), /*stable=*/std::optional<bool>(true), 0, /*descending=*/false);
  const std::int64_t chunks = (tokens + kEmbeddingChunkRows - 1) / kEmbeddingChunkRows;
  const at::ScalarType sums = dout_TD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor partials = at::empty({chunks, 2, channels}, dout_TD.options().dtype(sums));
  const std::int64_t widest = widest_pack(dout_TD.scalar_type());
  const std::int64_t pack = packs_fit(dout_TD, widest) ? widest : 1;
  const std::int64_t of_block = pack * kRowThreads;
  const jit::LaunchShape shape{
      .grid =
          {static_cast<unsigned>(chunks),
           static_cast<unsigned>((channels + of_block - 1) / of_block),
           1},
      .block = {kRowThreads, 1, 1}};
  const EmbeddingKernels kernels = embedding_kernels(dout_TD.scalar_type(), pack);
  const Launcher launcher(dout_TD);
  launcher.launch(
      kernels.chunks,
      shape,
      dout_TD.const_data_ptr(),
      ids.const_data_ptr<std::int32_t>(),
      order.const_data_ptr<std::int64_t>(),
      dweight_VD.mutable_data_ptr(),
      partials.mutable_data_ptr(),
      static_cast<long long>(dout_TD.stride(0)),
      static_cast<int>(tokens),
      static_cast<int>(channels),
      static_cast<long long>(vocabulary));
  launcher.launch(
      kernels.joins,
      shape,
      partials.const_data_ptr(),
      ids.const_data_ptr<std::int32_t>(),
      dweight_VD.mutable_data_ptr(),
      static_cast<int>(tokens),
      static_cast<int>(channels),
      static_cast<long long>(vocabulary));
  return dweight_VD;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("embedding", &embedding_cuda);
  library.impl("embedding_backward", &embedding_backward_cuda);
}

} // namespace baton::ops::cuda
