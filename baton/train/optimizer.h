// SPDX-License-Identifier: Apache-2.0
// AdamW over a model's parameters: clipping by the global norm, decay exemptions, master weights.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/base/config.h"
#include "baton/nn/parameter.h"
#include "baton/ops/adamw.h"
#include "baton/parallel/bucket_plan.h"
#include "baton/parallel/group.h"

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

/// What an optimizer updates of the parameters, bucket by bucket, and the ranks that share the
/// rest.
struct OwnedValues {
  std::vector<parallel::BucketSlice> slices; ///< at most one of a parameter
  std::size_t num_buckets = 1;
  parallel::Group replicas;
};

/// Whole parameters in their order, one rank.
OwnedValues all_values(const nn::ParameterStore& parameters);

/// One kind of state of an owned slice.
struct OptimizerState {
  std::size_t parameter = 0;
  const char* kind = "";  ///< "exp_avg", "exp_avg_sq" or "master"
  at::Tensor values;      ///< the optimizer's own
  std::int64_t begin = 0; ///< of the first of them in the flattened parameter
};

/// What a run says when a parameter's gradient is not finite, of `size` values in all.
[[noreturn]] void refuse_gradient(
    const std::string& parameter,
    std::int64_t nans,
    std::int64_t infinities,
    std::int64_t size);

/// AdamW with fp32 moments (fp64 for fp64 parameters). See `ops::adamw_` for the formula. Each rank
/// keeps moments and masters of the values that it owns and updates these; who owns the optimizer
/// exchanges the parameters.
///
/// Equal bits for any number of threads: the update is elementwise, and the norm is summed in fp64
/// over blocks of a fixed size, in a fixed tree, then over the parameters in their order.
class AdamW {
 public:
  /// `parameters` must hold their values already, since masters start as copies of them, and must
  /// outlive the optimizer. Throws for a config out of range.
  AdamW(const nn::ParameterStore& parameters, OptimizerConfig config);

  /// The same for one of several ranks.
  AdamW(const nn::ParameterStore& parameters, OptimizerConfig config, OwnedValues owned);

  /// One update from `gradients`, one per owned slice in order: each in its parameter's dtype, or
  /// in fp32 for a bf16 parameter; in the parameter's shape where the slice is all of it, flat
  /// otherwise. All ranks call it at once. Throws RunError, and changes nothing, when a gradient
  /// holds NaN or infinity; the message names the first such parameter.
  StepReport step(const StepRequest& request, at::TensorList gradients);

  /// The norm of such gradients, on all ranks. Throws as `step` does.
  double checked_norm(at::TensorList gradients) const;

  /// The same for one who knows the norm of all gradients of the model, before `grad_scale`, and
  /// with it that none is NaN or infinite. Does not wait for the device. `on_updated` is called
  /// with each bucket whose values this rank has updated, those in which it owns none too.
  StepReport step(
      const StepRequest& request,
      at::TensorList gradients,
      double norm,
      const std::function<void(std::size_t bucket)>& on_updated = {});

  /// Runs the update on copies of a few parameters, so that its kernels are loaded.
  void load_kernels() const;

  /// What this rank keeps states of and updates.
  const std::vector<parallel::BucketSlice>& owned() const { return owned_.slices; }

  /// Updates done so far.
  std::int64_t num_steps() const { return num_steps_; }

  /// Everything beside the parameters that a resumed run needs, with `num_steps`: for each
  /// owned slice "<name>.exp_avg", "<name>.exp_avg_sq" and, where kept, "<name>.master". The
  /// tensors are the optimizer's own, not copies.
  NamedTensors state() const;

  /// The same with each one's place in its parameter.
  std::vector<OptimizerState> states() const;

  /// The kinds of state that a parameter of this dtype has, with their dtypes.
  std::vector<std::pair<const char*, at::ScalarType>> kinds_of(at::ScalarType dtype) const;

  /// Copies a saved state in. Throws, and changes nothing, unless names, shapes and dtypes are
  /// exactly those of `state()`; their order is free.
  void load(const NamedTensors& state, std::int64_t num_steps);

 private:
  struct Slot {
    at::Tensor exp_avg;
    at::Tensor exp_avg_sq;
    at::Tensor master; ///< undefined where none is kept
  };

  const nn::Parameter& parameter_of(std::size_t slot) const;
  at::Tensor value_of(std::size_t slot) const;
  at::Tensor sum_squares_of(at::TensorList gradients) const;
  [[noreturn]] void report_bad_values(at::TensorList gradients, std::size_t parameter) const;
  std::int64_t count_zeros(at::TensorList gradients) const;
  void update(std::size_t slot, const at::Tensor& gradient, ops::AdamwStep step) const;

  const nn::ParameterStore& parameters_;
  OptimizerConfig config_;
  OwnedValues owned_;
  std::vector<Slot> slots_;
  std::int64_t num_steps_ = 0;
};

} // namespace baton::train
