// SPDX-License-Identifier: Apache-2.0
// Several datasets that are trained on together, each with its share of the tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "baton/data/indexed_dataset.h"

namespace baton {

/// Datasets and their shares, which add up to 1. Immutable.
class Blend {
 public:
  using Dataset = std::shared_ptr<const IndexedDataset>;

  /// `weights` stand for shares in their proportion; without any, each set has the share that its
  /// tokens have in all, so that the epochs of all sets end together. Throws Error when there are
  /// no sets, one holds no tokens or is named twice, a weight is not above 0, or the numbers of
  /// sets and weights differ.
  explicit Blend(std::vector<Dataset> datasets, const std::vector<double>& weights = {});

  std::size_t size() const { return datasets_.size(); }
  const IndexedDataset& dataset(std::size_t set) const { return *datasets_[set]; }
  /// Of the tokens that are handed out.
  double share(std::size_t set) const { return shares_[set]; }
  /// Whether any of them has a loss mask.
  bool has_mask() const;
  std::int64_t num_tokens() const;

 private:
  std::vector<Dataset> datasets_;
  std::vector<double> shares_;
};

/// Opens the datasets of these prefixes.
Blend open_blend(const std::vector<std::string>& prefixes, const std::vector<double>& weights);

} // namespace baton
