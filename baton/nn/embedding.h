// SPDX-License-Identifier: Apache-2.0
// Vocabulary embedding.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "baton/nn/parameter.h"
#include "baton/nn/vocabulary_loss.h"

namespace baton::nn {

/// Sizes of a matrix with a row for every token id.
struct VocabularyOptions {
  std::int64_t vocabulary = 0; ///< V
  std::int64_t width = 0;      ///< D
  double start_deviation = 0.02;
};

/// Declares a matrix [V, D], cut over the vocabulary: of the embedding, or of an untied head.
const Parameter& declare_vocabulary_matrix(
    std::string name,
    const VocabularyOptions& options,
    ParameterStore& store);

class Embedding {
 public:
  Embedding(const VocabularyOptions& options, ParameterStore& store);

  /// tokens_T int64 -> [T, D], of several ranks each one's rows of it. Throws for an id outside the
  /// vocabulary.
  at::Tensor operator()(const at::Tensor& tokens_T) const;

  const Parameter& weight() const { return weight_; }

 private:
  const Parameter& weight_;
  parallel::Group tensor_ranks_;
  VocabularyShare share_;
};

} // namespace baton::nn
