// SPDX-License-Identifier: Apache-2.0
// The embedding on the CPU. Its gradient is an item for each id, whose tokens add up in their
// order.
#include "baton/ops/embedding.h"

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "baton/ops/cpu/each_item.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cpu {
namespace {

at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_T) {
  check_embedding(weight_VD, tokens_T);
  return at::embedding(weight_VD, tokens_T);
}

/// Tokens by id, those of one id in their order; and where each id begins, and the end.
struct Runs {
  at::Tensor ids;
  at::Tensor order;
  std::vector<std::int64_t> begins;
};

Runs make_runs(const at::Tensor& tokens_T, std::int64_t vocabulary) {
  Runs runs;
  std::tie(runs.ids, runs.order) =
      at::sort(tokens_T, /*stable=*/std::optional<bool>(true), 0, /*descending=*/false);
  const std::int64_t count = runs.ids.size(0);
  const std::int64_t* ids = runs.ids.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    if (i == 0 || ids[i] != ids[i - 1]) {
      TORCH_CHECK(
          ids[i] >= 0 && ids[i] < vocabulary,
          "token ids must be in [0, ",
          vocabulary,
          "), got ",
          ids[i]);
      runs.begins.push_back(i);
    }
  }
  runs.begins.push_back(count);
  return runs;
}

template <class T>
void add_rows(const at::Tensor& dout_TD, const Runs& runs, const at::Tensor& dweight_VD) {
  using Sum = at::opmath_type<T>;
  const std::int64_t* ids = runs.ids.const_data_ptr<std::int64_t>();
  const std::int64_t* order = runs.order.const_data_ptr<std::int64_t>();
  const std::int64_t width = dout_TD.size(1);
  const std::int64_t stride = dout_TD.stride(0);
  const T* dout = dout_TD.const_data_ptr<T>();
  T* dweight = dweight_VD.mutable_data_ptr<T>();
  for_each_item(static_cast<std::int64_t>(runs.begins.size()) - 1, [&](std::int64_t run) {
    std::vector<Sum> sums(width);
    for (std::int64_t i = runs.begins[run]; i < runs.begins[run + 1]; ++i) {
      const T* row = dout + order[i] * stride;
      for (std::int64_t d = 0; d < width; ++d) {
        sums[d] += static_cast<Sum>(row[d]);
      }
    }
    T* to = dweight + ids[runs.begins[run]] * width;
    for (std::int64_t d = 0; d < width; ++d) {
      to[d] = static_cast<T>(sums[d]);
    }
  });
}

at::Tensor
embedding_backward(const at::Tensor& dout, const at::Tensor& tokens_T, std::int64_t vocabulary) {
  check_embedding_backward(dout, tokens_T);
  const Runs runs = make_runs(tokens_T, vocabulary);
  const at::Tensor dout_TD = as_rows(dout);
  at::Tensor dweight_VD = at::zeros({vocabulary, dout_TD.size(1)}, dout_TD.options());
  switch (dout_TD.scalar_type()) {
    case at::kDouble:
      add_rows<double>(dout_TD, runs, dweight_VD);
      break;
    case at::kFloat:
      add_rows<float>(dout_TD, runs, dweight_VD);
      break;
    default:
      add_rows<at::BFloat16>(dout_TD, runs, dweight_VD);
  }
  return dweight_VD;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("embedding", &embedding);
  library.impl("embedding_backward", &embedding_backward);
}

} // namespace baton::ops::cpu
