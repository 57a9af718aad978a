// SPDX-License-Identifier: Apache-2.0
// Cross entropy of a vocabulary that several ranks share.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/cross_entropy.h"
#include "baton/parallel/group.h"

namespace baton::nn {

/// Which rows of a vocabulary's matrix a rank holds.
struct VocabularyShare {
  std::int64_t vocabulary = 0; ///< V, of all ranks
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// This rank's share; throws where there are more ranks than token ids.
VocabularyShare vocabulary_share(std::int64_t vocabulary, const parallel::Group& ranks);

/// What `ops::cross_entropy` gives for all tokens and the whole vocabulary, on every rank.
///
/// hidden_RD: this rank's rows of the T tokens; weight_VD: its rows of the matrix; labels_T and
/// mask_T of all tokens. Each rank makes the logits of its token ids, in blocks of tokens as there,
/// and tells the others three numbers a token: the largest logit, the sum of exponentials, the
/// label's logit. No rank ever has another's logits. Gradients are those of the one loss, whose
/// copies on the ranks count once: of this rank's rows and of its rows of the matrix, found in the
/// same pass.
ops::CrossEntropyOutput vocabulary_loss(
    const at::Tensor& hidden_RD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    const VocabularyShare& share,
    const parallel::Group& ranks);

} // namespace baton::nn
