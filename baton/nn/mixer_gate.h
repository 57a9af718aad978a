// SPDX-License-Identifier: Apache-2.0
// The gate of a mixer, with or without a norm, behind what its core makes.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/nn/parameter.h"
#include "baton/ops/gated_norm.h"
#include "baton/parallel/group.h"

namespace baton::nn {

class MixerGate {
 public:
  /// `norm`, null for no norm, is the weight of `inner` channels, this rank's.
  MixerGate(
      const Parameter* norm,
      const ops::GatedNormConfig& config,
      std::int64_t inner,
      parallel::Group tensor_ranks);

  /// Of y and z [T, inner].
  at::Tensor operator()(const at::Tensor& y_TI, const at::Tensor& z_TI) const;

  bool norms() const { return norm_ != nullptr; }
  /// Whether a norm's groups have channels on other ranks.
  bool shared() const { return norms() && inner_ % config_.group_size != 0; }
  std::optional<at::Tensor> weight() const;
  const ops::GatedNormConfig& config() const { return config_; }

 private:
  const Parameter* norm_;
  ops::GatedNormConfig config_;
  std::int64_t inner_;
  parallel::Group tensor_ranks_;
};

} // namespace baton::nn
