// SPDX-License-Identifier: Apache-2.0
#include "baton/data/blend.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "baton/base/config_text.h"
#include "baton/base/error.h"

namespace baton {
namespace {

void check_weights(const std::vector<double>& weights, std::size_t sets) {
  if (weights.size() != sets) {
    throw Error(
        "a weight for each data set is needed: " + std::to_string(weights.size()) +
        " weights for " + std::to_string(sets) + " sets");
  }
  for (const double weight : weights) {
    if (!(weight > 0.0) || !std::isfinite(weight)) {
      throw Error("the weight of a data set must be above 0: " + number_text(weight));
    }
  }
}

} // namespace

Blend::Blend(std::vector<Dataset> datasets, const std::vector<double>& weights)
    : datasets_(std::move(datasets)), shares_(weights) {
  if (datasets_.empty()) {
    throw Error("no data set to train on");
  }
  for (std::size_t i = 0; i < size(); ++i) {
    if (dataset(i).num_tokens() == 0) {
      throw Error(dataset(i).paths().index + ": holds no tokens");
    }
    for (std::size_t k = 0; k < i; ++k) {
      if (dataset(k).paths().prefix == dataset(i).paths().prefix) {
        throw Error(dataset(i).paths().prefix + ": this data set is named twice");
      }
    }
  }
  if (weights.empty()) {
    for (const Dataset& dataset : datasets_) {
      shares_.push_back(static_cast<double>(dataset->num_tokens()));
    }
  }
  check_weights(shares_, size());
  const double sum = std::accumulate(shares_.begin(), shares_.end(), 0.0);
  for (double& share : shares_) {
    share /= sum;
  }
}

bool Blend::has_mask() const {
  return std::any_of(datasets_.begin(), datasets_.end(), [](const Dataset& dataset) {
    return dataset->has_mask();
  });
}

std::int64_t Blend::num_tokens() const {
  std::int64_t tokens = 0;
  for (const Dataset& dataset : datasets_) {
    tokens += dataset->num_tokens();
  }
  return tokens;
}

Blend open_blend(const std::vector<std::string>& prefixes, const std::vector<double>& weights) {
  std::vector<Blend::Dataset> datasets;
  datasets.reserve(prefixes.size());
  for (const std::string& prefix : prefixes) {
    datasets.push_back(std::make_shared<const IndexedDataset>(prefix));
  }
  return Blend(std::move(datasets), weights);
}

} // namespace baton
