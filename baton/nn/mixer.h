// SPDX-License-Identifier: Apache-2.0
// The frame of a mixer: projection, a replaceable core, gate and norm, projection.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/linear.h"
#include "baton/nn/sublayer.h"

namespace baton::nn {

/// What the frame tells its core when it is made.
struct MixerArguments {
  std::string name; ///< "layers.3.mixer"
  const LayerConfig& layer;
  ParameterStore& store;
};

/// The sequence operation of a mixer. It sees the projected columns behind z, a layout and state
/// tensors, never a request.
class MixerCore {
 public:
  MixerCore() = default;
  MixerCore(const MixerCore&) = delete;
  MixerCore& operator=(const MixerCore&) = delete;
  virtual ~MixerCore() = default;

  /// The packed parts that it wants from in_proj, in order, with the sizes of the whole model.
  virtual std::vector<CutPart> input_parts() const = 0;
  virtual std::vector<StateSpec> states() const = 0;

  /// Each form takes input_TC (this rank's columns of `input_parts`, as `CutPart` divides them) and
  /// gives [T, this rank's share of inner]. It sees to it that its sizes go among the ranks.
  virtual at::Tensor train(const at::Tensor& input_TC, const StepContext& context) const = 0;
  virtual at::Tensor prefill(const at::Tensor& input_TC, const StepContext& context) const = 0;
  virtual at::Tensor step(const at::Tensor& input_TC, const StepContext& context) const = 0;
};

class Mixer final : public Sublayer {
 public:
  using MakeCore = std::function<std::unique_ptr<MixerCore>(const MixerArguments&)>;

  Mixer(
      const SublayerArguments& arguments,
      const MixerFrameConfig& frame,
      const MakeCore& make_core);

  at::Tensor forward(const at::Tensor& hidden_TD, const StepContext& context) const override;
  std::vector<StateSpec> states() const override { return core_->states(); }

 private:
  at::Tensor run_core(const at::Tensor& input_TC, const StepContext& context) const;
  at::Tensor finish(const at::Tensor& y_TI, const at::Tensor& z_TI) const;

  parallel::Group tensor_ranks_;
  MixerFrameConfig frame_;
  std::int64_t inner_; ///< of `frame_.inner`, this rank's channels
  double norm_eps_;
  std::unique_ptr<MixerCore> core_;
  Linear in_proj_;
  const Parameter* norm_ = nullptr;
  Linear out_proj_;
};

} // namespace baton::nn
