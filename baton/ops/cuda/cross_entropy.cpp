// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cross_entropy.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda_kernels_attend.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using Results = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Each block reads the weight twice and adds to all of its gradient, so on a GPU, whose products
// are fast, blocks are larger than elsewhere.
constexpr std::int64_t kLogitBytes = std::int64_t{1} << 30;
constexpr std::int64_t kTokenStep = 128; // keeps products on whole tiles
constexpr std::int64_t kRowBytes = 64;   // rows of logits begin at multiples of it

std::int64_t tokens_of_block(std::int64_t block_tokens, std::int64_t row_bytes) {
  if (block_tokens > 0) {
    return block_tokens;
  }
  const std::int64_t tokens = kLogitBytes / std::max<std::int64_t>(1, row_bytes);
  return std::max(kTokenStep, tokens / kTokenStep * kTokenStep);
}

/// out = a b, or out += a b with `accumulate`; bf16 operands may have an fp32 `out`.
void product_into(
    at::Tensor out_MN,
    const at::Tensor& a_MK,
    const at::Tensor& b_KN,
    bool accumulate = false) {
  const at::ScalarType dtype = out_MN.scalar_type();
  if (a_MK.scalar_type() == dtype || !a_MK.is_cuda()) { // the CPU has no products of two dtypes
    const at::Tensor a = a_MK.to(dtype);
    const at::Tensor b = b_KN.to(dtype);
    accumulate ? at::addmm_out(out_MN, out_MN, a, b) : at::mm_out(out_MN, a, b);
  } else {
    accumulate ? at::addmm_out(out_MN, out_MN, a_MK, b_KN, dtype)
               : at::mm_out(out_MN, a_MK, b_KN, dtype);
  }
}

/// Tokens and their losses.
struct TokenLosses {
  at::Tensor labels_T;
  at::Tensor mask_T; ///< of nll's dtype; undefined: all ones
  at::Tensor nll_T;
  double logit_scale;

  const void* mask_at(std::int64_t first) const {
    return mask_T.defined()
               ? static_cast<const char*>(mask_T.const_data_ptr()) + first * mask_T.element_size()
               : nullptr;
  }

  /// Losses of the tokens from `first`. With `gradients`, logits become the gradient of the masked
  /// sum in `gradient`'s dtype, from the beginning of each row.
  void compute(
      const Launcher& launcher,
      const at::Tensor& logits_RV,
      std::int64_t first,
      at::ScalarType gradient,
      bool gradients) const {
    const auto launch = [&](auto scale) {
      launcher.launch(
          token_losses_kernel(logits_RV.scalar_type(), gradient),
          {.grid = {static_cast<unsigned>(logits_RV.size(0)), 1, 1}, .block = {kLossThreads, 1, 1}},
          logits_RV.mutable_data_ptr(),
          labels_T.const_data_ptr<std::int64_t>() + first,
          mask_at(first),
          static_cast<void*>(
              static_cast<char*>(nll_T.mutable_data_ptr()) + first * nll_T.element_size()),
          static_cast<long long>(logits_RV.stride(0)),
          static_cast<long long>(logits_RV.size(1)),
          scale,
          static_cast<int>(gradients));
    };
    if (logits_RV.scalar_type() == at::kDouble) {
      launch(logit_scale);
    } else {
      launch(static_cast<float>(logit_scale));
    }
  }

  at::Tensor sum(const Launcher& launcher) const {
    at::Tensor loss_sum = at::empty({}, nll_T.options());
    launcher.launch(
        sum_losses_kernel(nll_T.scalar_type()),
        {.grid = {1, 1, 1}, .block = {kRowThreads, 1, 1}},
        nll_T.const_data_ptr(),
        mask_at(0),
        loss_sum.mutable_data_ptr(),
        static_cast<long long>(nll_T.size(0)));
    return loss_sum;
  }
};

Results run(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens,
    bool gradients) {
  check_cross_entropy(hidden_TD, weight_VD, labels_T, mask_T, block_tokens);
  check_activation("hidden", hidden_TD);
  const at::ScalarType dtype = hidden_TD.scalar_type();
  const at::ScalarType sums = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const at::TensorOptions options = hidden_TD.options().dtype(sums);
  const std::int64_t tokens = hidden_TD.size(0);
  const std::int64_t vocabulary = weight_VD.size(0);
  const TokenLosses losses{
      labels_T.contiguous(),
      mask_T ? mask_T->to(sums).contiguous() : at::Tensor(),
      at::empty({tokens}, options),
      logit_scale};
  const std::int64_t step = kRowBytes / static_cast<std::int64_t>(c10::elementSize(sums));
  const std::int64_t stride = (vocabulary + step - 1) / step * step;
  const std::int64_t block = std::min(
      tokens, tokens_of_block(block_tokens, stride * static_cast<std::int64_t>(elementSize(sums))));
  const at::Tensor buffer = at::empty({block, stride}, options);
  const bool one_block = block == tokens;
  at::Tensor dhidden_TD;
  at::Tensor dweight_VD;
  if (gradients) {
    dhidden_TD = at::empty(hidden_TD.sizes(), hidden_TD.options());
    dweight_VD = at::empty(weight_VD.sizes(), one_block ? weight_VD.options() : options);
  }
  const Launcher launcher(hidden_TD);
  for (std::int64_t first = 0; first < tokens; first += block) {
    const std::int64_t rows = std::min(block, tokens - first);
    const at::Tensor hidden_RD = hidden_TD.narrow(0, first, rows);
    const at::Tensor whole_rows = buffer.narrow(0, 0, rows);
    const at::Tensor logits_RV = whole_rows.narrow(1, 0, vocabulary);
    product_into(logits_RV, hidden_RD, weight_VD.t());
    losses.compute(launcher, logits_RV, first, dtype, gradients);
    if (gradients) {
      const at::Tensor dlogits_RV = whole_rows.view(dtype).narrow(1, 0, vocabulary);
      product_into(dhidden_TD.narrow(0, first, rows), dlogits_RV, weight_VD);
      product_into(dweight_VD, dlogits_RV.t(), hidden_RD, /*accumulate=*/first > 0);
    }
  }
  if (gradients) {
    dweight_VD = tokens == 0 ? dweight_VD.zero_() : dweight_VD.to(dtype);
  }
  return {losses.sum(launcher), losses.nll_T, dhidden_TD, dweight_VD};
}

std::tuple<at::Tensor, at::Tensor> cross_entropy_cuda(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  auto [loss_sum, nll_T, dhidden_TD, dweight_VD] =
      run(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens, false);
  return {loss_sum, nll_T};
}

Results cross_entropy_with_grads_cuda(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const OptionalTensor& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  return run(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens, true);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("cross_entropy", &cross_entropy_cuda);
  library.impl("cross_entropy_with_grads", &cross_entropy_with_grads_cuda);
}

} // namespace baton::ops::cuda
