// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/embedding.h"

#include <utility>

#include "baton/ops/embedding.h"

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
    : weight_(declare_vocabulary_matrix("embedding.weight", options, store)) {}

at::Tensor Embedding::operator()(const at::Tensor& tokens_T) const {
  return ops::embedding(weight_.value, tokens_T);
}

} // namespace baton::nn
