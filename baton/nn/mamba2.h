// SPDX-License-Identifier: Apache-2.0
// The core of a Mamba-2 mixer: causal convolution and state-space scan.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/mixer.h"
#include "baton/ops/ssd.h"

namespace baton::nn {

/// Dao and Gu, "Transformers are SSMs", 2024, section 7; the parts behind z are x, B, C, dt.
class Mamba2Core final : public MixerCore {
 public:
  Mamba2Core(const MixerArguments& arguments, const Mamba2Config& config);

  std::vector<CutPart> input_parts() const override;
  std::vector<StateSpec> states() const override;
  at::Tensor train(const MixerInput& input, const StepContext& context) const override;
  at::Tensor prefill(const MixerInput& input, const StepContext& context) const override;
  at::Tensor step(const MixerStep& layer, const StepContext& context) const override;

 private:
  std::int64_t conv_channels() const;

  /// Views of the projected columns behind z: x, B, C of the convolution, and dt.
  struct Input {
    at::Tensor xbc_TC;
    at::Tensor dt_TH;
  };
  Input split_parts(const at::Tensor& parts_TC) const;

  /// The heads that this rank scans of those whose columns it has, and their groups.
  struct Share {
    std::int64_t first_head;
    std::int64_t heads;
    std::int64_t first_group;
    std::int64_t groups;
  };
  Share all_heads() const;
  Share own_heads(const parallel::Context& shared) const;

  ops::SsdTimeStep time_step(const at::Tensor& bias_H) const;

  /// Views of the convolved columns x, B, C, with dt and the parameters.
  ops::SsdInputs scan_inputs(
      const at::Tensor& convolved_TC,
      const at::Tensor& dt_TH,
      const at::Tensor& starts_B1,
      const Share& share) const;

  /// The whole mixer as one operator, where no other rank has a part in it.
  at::Tensor train_in_one(const MixerInput& input, const at::Tensor& starts_B1) const;
  /// Else the three ways to y: alone, with the state handed on, with the heads divided.
  at::Tensor train_alone(const Input& input, const at::Tensor& starts_B1, const Share& share) const;
  at::Tensor train_by_baton(const Input& input, const parallel::Context& shared) const;
  at::Tensor train_by_heads(const Input& input, const parallel::Context& shared) const;

  Mamba2Config whole_;
  Mamba2Config config_; ///< with the heads and groups of this rank
  at::ScalarType dtype_;
  std::string conv_state_name_;
  std::string ssm_state_name_;
  const Parameter* conv_weight_ = nullptr;
  const Parameter* conv_bias_ = nullptr;
  const Parameter* dt_bias_ = nullptr;
  const Parameter* A_log_ = nullptr;
  const Parameter* D_ = nullptr;
};

} // namespace baton::nn
