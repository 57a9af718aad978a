// SPDX-License-Identifier: Apache-2.0
// AdamW over a model's parameters: clipping by the global norm, decay exemptions, master weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/base/config.h"
#include "baton/nn/parameter.h"

namespace baton::train {

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;
  bool master_weights = true;

  template <class V>
  void visit(V& v) {
    v.field("beta1", beta1, "decay of AdamW's first moment, below 1", Range{0.0, 1.0});
    v.field("beta2", beta2, "decay of AdamW's second moment, below 1", Range{0.0, 1.0});
    v.field("eps", eps, "added to the root of AdamW's second moment", Range::at_least(0.0));
    v.field(
        "weight_decay",
        weight_decay,
        "decoupled decay of matrices; vectors, A_log, D and dt_bias are exempt",
        Range::at_least(0.0));
    v.field(
        "clip_norm",
        clip_norm,
        "gradients are scaled down to this global norm; 0 leaves them",
        Range::at_least(0.0));
    v.field("master_weights", master_weights, "keep an fp32 copy of every bf16 parameter");
  }
};

/// What one update needs to know, and what it shall count beside its work.
struct StepRequest {
  double lr = 0.0;
  double grad_scale = 1.0; ///< multiplies all gradients first, e.g. 1 / tokens of a summed loss
  bool count_zero_gradients = false;
  bool parameter_norm = false;
};

struct StepReport {
  double grad_norm = 0.0;  ///< after `grad_scale`, before clipping
  double clip_scale = 1.0; ///< what clipping multiplied the gradients with
  std::optional<std::int64_t> zero_gradients;
  std::optional<double> parameter_norm; ///< after the update, of the weights as the model has them
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The accumulated gradients of all parameters, in their order. Throws where one has none: an
/// unused parameter is a mistake in the model.
std::vector<at::Tensor> gradients(const nn::ParameterStore& parameters);

/// The sum of squares of each, fp64, on their device and not waited for: what the global norm is
/// made of, and NaN or infinite where a gradient holds such values.
at::Tensor squares_of(at::TensorList gradients);

/// Drops all gradients, so that the next backward pass starts anew.
void clear_gradients(const nn::ParameterStore& parameters);

/// AdamW with fp32 moments (fp64 for fp64 parameters). See `ops::adamw_` for the formula.
///
/// Equal bits for any number of threads: the update is elementwise, and the norm is summed in fp64
/// over blocks of a fixed size, in a fixed tree, then over the parameters in their order.
class AdamW {
 public:
  /// `parameters` must hold their values already, since masters start as copies of them, and must
  /// outlive the optimizer. Throws for a config out of range.
  AdamW(const nn::ParameterStore& parameters, OptimizerConfig config);

  /// One update from `gradients`, one per parameter in order, each in its parameter's dtype, or in
  /// fp32 for a bf16 parameter. Throws RunError, and changes nothing, when a gradient holds NaN or
  /// infinity; the message names the first such parameter.
  StepReport step(const StepRequest& request, at::TensorList gradients);

  /// The same for one who has read `squares_of(gradients)` already, with what else it had to wait
  /// for: fp64 on the CPU. Does not wait for the device.
  StepReport step(const StepRequest& request, at::TensorList gradients, const at::Tensor& squares);

  /// Runs the update on copies of a few parameters, so that its kernels are loaded.
  void load_kernels() const;

  /// Updates done so far.
  std::int64_t num_steps() const { return num_steps_; }

  /// Everything beside the parameters that a resumed run needs, with `num_steps`: for each
  /// parameter "<name>.exp_avg", "<name>.exp_avg_sq" and, where kept, "<name>.master". The tensors
  /// are the optimizer's own, not copies.
  NamedTensors state() const;

  /// Copies a saved state in. Throws, and changes nothing, unless names, shapes and dtypes are
  /// exactly those of `state()`; their order is free.
  void load(const NamedTensors& state, std::int64_t num_steps);

 private:
  struct Slot {
    at::Tensor exp_avg;
    at::Tensor exp_avg_sq;
    at::Tensor master; ///< undefined where none is kept
  };

  double checked_norm(at::TensorList gradients, const at::Tensor& squares) const;

  const nn::ParameterStore& parameters_;
  OptimizerConfig config_;
  std::vector<Slot> slots_;
  std::int64_t num_steps_ = 0;
};

} // namespace baton::train
