// SPDX-License-Identifier: Apache-2.0
#include "baton/train/data_log.h"

#include <cstdio>
#include <string>
#include <utility>

#include "baton/base/log.h"
#include "baton/base/progress.h"

namespace baton::train {
namespace {

constexpr double kPercent = 100.0;

std::string decimal(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string counted(std::int64_t count) {
  return count_text(static_cast<double>(count));
}

} // namespace

DataLog::DataLog(std::shared_ptr<const Blend> blend, const LoaderState& state)
    : blend_(std::move(blend)) {
  for (std::size_t i = 0; i < blend_->size(); ++i) {
    const IndexedDataset& dataset = blend_->dataset(i);
    epochs_.push_back(state.sets[i].epoch);
    log_info(
        "data " + dataset.paths().prefix + ": " + counted(dataset.num_documents()) +
        " documents, " + counted(dataset.num_tokens()) + " tokens, " +
        decimal(kPercent * blend_->share(i), 1) + "% of the training");
  }
}

void DataLog::update(const LoaderState& state, std::int64_t step) {
  for (std::size_t i = 0; i < blend_->size(); ++i) {
    const std::int64_t epoch = state.sets[i].epoch;
    if (epoch != epochs_[i]) {
      epochs_[i] = epoch;
      log_info(
          "data " + blend_->dataset(i).paths().prefix + ": epoch " + std::to_string(epoch + 1) +
          " began at step " + std::to_string(step));
    }
  }
}

void DataLog::finish(const LoaderState& state) const {
  for (std::size_t i = 0; i < blend_->size(); ++i) {
    const SetState& set = state.sets[i];
    const double epochs = static_cast<double>(set.tokens) / static_cast<double>(set.dataset_tokens);
    log_info(
        "data " + blend_->dataset(i).paths().prefix + ": " + counted(set.tokens) +
        " tokens handed out, " + decimal(epochs, 2) + " epochs");
  }
}

} // namespace baton::train
