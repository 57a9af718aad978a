// SPDX-License-Identifier: Apache-2.0
// The frame of a mixer: projection, a replaceable core with the gate behind it, projection.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/linear.h"
#include "baton/nn/mixer_gate.h"
#include "baton/nn/sublayer.h"
#include "baton/ops/layer_frame.h"

namespace baton::nn {

/// What the frame tells its core when it is made.
struct MixerArguments {
  std::string name; ///< "layers.3.mixer"
  const LayerConfig& layer;
  ParameterStore& store;
};

/// What a core gets: projected rows, z [T, inner] and behind it this rank's columns of the core's
/// `input_parts`, as `CutPart` divides them.
struct MixerInput {
  at::Tensor projected_TC;
  std::int64_t inner;
  const MixerGate& gate;

  struct Columns {
    at::Tensor z_TI;
    at::Tensor parts_TC;
  };
  /// Views. A split, because its gradient is one copy; each slice's would be a whole tensor of
  /// zeros.
  Columns split() const;
};

/// What a core gets of a whole layer in the step form, its frame's projections included.
struct MixerStep {
  at::Tensor hidden_TD;
  const ops::LayerFrame& frame;
  const Linear& in_proj;
  const MixerGate& gate;
  const Linear& out_proj;
};

/// The sequence operation of a mixer, gated. It sees projected columns, a layout and state tensors,
/// never a request.
class MixerCore {
 public:
  MixerCore() = default;
  MixerCore(const MixerCore&) = delete;
  MixerCore& operator=(const MixerCore&) = delete;
  virtual ~MixerCore() = default;

  /// The packed parts that it wants from in_proj, in order, with the sizes of the whole model.
  virtual std::vector<CutPart> input_parts() const = 0;
  virtual std::vector<StateSpec> states() const = 0;

  /// These forms give [T, this rank's share of inner], behind the gate. A core sees to it that its
  /// sizes go among the ranks.
  virtual at::Tensor train(const MixerInput& input, const StepContext& context) const = 0;
  virtual at::Tensor prefill(const MixerInput& input, const StepContext& context) const = 0;
  /// This one makes the whole layer, from hidden [T, D] to the sum [T, D], since an operator may do
  /// that at once. Ranks do not share a layer here.
  virtual at::Tensor step(const MixerStep& layer, const StepContext& context) const = 0;
};

class Mixer final : public Sublayer {
 public:
  using MakeCore = std::function<std::unique_ptr<MixerCore>(const MixerArguments&)>;

  Mixer(
      const SublayerArguments& arguments,
      const MixerFrameConfig& frame,
      const MakeCore& make_core);

  at::Tensor forward(const at::Tensor& hidden_TD, const StepContext& context) const override;
  at::Tensor step(
      const at::Tensor& hidden_TD,
      const ops::LayerFrame& frame,
      const StepContext& context) const override;
  std::vector<StateSpec> states() const override { return core_->states(); }

 private:
  parallel::Group tensor_ranks_;
  std::int64_t inner_; ///< of the frame's, this rank's channels
  std::unique_ptr<MixerCore> core_;
  Linear in_proj_;
  MixerGate gate_;
  Linear out_proj_;
};

} // namespace baton::nn
