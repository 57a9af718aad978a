// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/embedding.h"

#include <utility>

#include <ATen/ATen.h>

#include "baton/ops/embedding.h"
#include "baton/parallel/tensor_rows.h"

namespace baton::nn {

const Parameter& declare_vocabulary_matrix(
    std::string name,
    const VocabularyOptions& options,
    ParameterStore& store) {
  return store.declare(
      {.name = std::move(name),
       .shape = {options.vocabulary, options.width},
       .cut = {.dim = 0, .parts = {}},
       .start = start_normal(options.start_deviation)});
}

Embedding::Embedding(const VocabularyOptions& options, ParameterStore& store)
    : weight_(declare_vocabulary_matrix("embedding.weight", options, store)),
      tensor_ranks_(store.tensor_ranks()),
      share_(vocabulary_share(options.vocabulary, tensor_ranks_)) {}

at::Tensor Embedding::operator()(const at::Tensor& tokens_T) const {
  if (tensor_ranks_.alone()) {
    return ops::embedding(weight_.value, tokens_T);
  }
  TORCH_CHECK(
      !tokens_T.is_cpu() || tokens_T.size(0) == 0 ||
          (tokens_T.min().item<std::int64_t>() >= 0 &&
           tokens_T.max().item<std::int64_t>() < share_.vocabulary),
      "tokens must lie in [0, ",
      share_.vocabulary,
      ")");
  // Of each token one rank has the row; the others add zeros, so that the sum is exact.
  const at::Tensor places_T = tokens_T - share_.first;
  const at::Tensor elsewhere_T = places_T.lt(0).logical_or(places_T.ge(share_.count));
  const at::Tensor rows_TD = ops::embedding(weight_.value, places_T.masked_fill(elsewhere_T, 0))
                                 .masked_fill(elsewhere_T.unsqueeze(1), 0.0);
  return parallel::scatter_rows(rows_TD, tensor_ranks_);
}

} // namespace baton::nn
