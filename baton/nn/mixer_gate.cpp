// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/mixer_gate.h"

#include <utility>

#include "baton/nn/shared_gated_norm.h"

namespace baton::nn {

MixerGate::MixerGate(
    const Parameter* norm,
    const ops::GatedNormConfig& config,
    std::int64_t inner,
    parallel::Group tensor_ranks)
    : norm_(norm), config_(config), inner_(inner), tensor_ranks_(std::move(tensor_ranks)) {}

at::Tensor MixerGate::operator()(const at::Tensor& y_TI, const at::Tensor& z_TI) const {
  return shared() ? shared_gated_norm(y_TI, z_TI, norm_->value, config_, tensor_ranks_)
                  : ops::gated_norm(y_TI, z_TI, weight(), config_);
}

std::optional<at::Tensor> MixerGate::weight() const {
  return norms() ? std::optional(norm_->value) : std::nullopt;
}

} // namespace baton::nn
