// SPDX-License-Identifier: Apache-2.0
// Parameters as data: what a layer declares, and the storage that holds the values.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/base/random.h"
#include "baton/nn/parameter_cut.h"
#include "baton/parallel/group.h"

namespace baton::nn {

/// Everything about a parameter but its values.
struct ParameterSpec {
  /// Global start values, fp64 of the global shape: a function of the key alone, so that any rank
  /// may compute the slice that it holds.
  using StartValues = std::function<at::Tensor(RandomKey, at::IntArrayRef)>;

  std::string name;                ///< "layers.3.mixer.in_proj.weight"
  std::vector<std::int64_t> shape; ///< global
  ParameterCut cut;
  StartValues start;
  bool weight_decay = true; ///< false for biases, norms, A_log, D, dt_bias
  bool keep_fp32 = false;   ///< stays fp32 (fp64 in an fp64 model) whatever the model's dtype
};

struct Parameter {
  ParameterSpec spec;
  /// This rank's part of it, as `pieces_of` has it; of one rank all of it.
  at::Tensor value; ///< a leaf that requires grad after `ParameterStore::initialize`
};

/// Its value; absent for null.
inline std::optional<at::Tensor> value_of(const Parameter* parameter) {
  return parameter == nullptr ? std::nullopt : std::make_optional(parameter->value);
}

/// The dtype in which a model of `dtype` holds a parameter.
at::ScalarType storage_dtype(const ParameterSpec& spec, at::ScalarType dtype);

/// Start values of the usual kinds.
ParameterSpec::StartValues start_constant(double value);
ParameterSpec::StartValues start_normal(double deviation);
ParameterSpec::StartValues start_uniform(double low, double high);

/// Owns the parameters of a model in the order of their declaration.
class ParameterStore {
 public:
  /// `tensor_ranks` divide the parameters among them, as their cuts say.
  explicit ParameterStore(parallel::Group tensor_ranks = {})
      : tensor_ranks_(std::move(tensor_ranks)) {}

  /// Adds a parameter; the reference stays valid for the life of the store. Throws on a second
  /// parameter of the same name.
  const Parameter& declare(ParameterSpec spec);

  /// Adds a tensor that a layer computes once on the CPU and that training leaves alone, such as
  /// rotary frequencies. The reference, valid for the life of the store, is to it on the device of
  /// the parameters. No checkpoint holds it.
  const at::Tensor& declare_constant(const at::Tensor& value);

  /// Allocates this rank's part of all parameters on `device` in `dtype` and fills it with their
  /// start values, which are the same whatever the number of ranks.
  void initialize(std::uint64_t seed, at::ScalarType dtype, at::Device device);

  /// Allocates all parameters without values, for a checkpoint to fill.
  void allocate(at::ScalarType dtype, at::Device device);

  const std::deque<Parameter>& parameters() const { return parameters_; }

  /// Where the parameters are; the CPU before they are allocated.
  at::Device device() const { return device_; }

  /// Throws when there is no such parameter.
  const Parameter& at(std::string_view name) const;

  /// Of whole parameters.
  std::int64_t num_values() const;

  /// The ranks of tensor parallelism.
  const parallel::Group& tensor_ranks() const { return tensor_ranks_; }

  /// What this rank holds of a parameter.
  std::vector<ParameterPiece> pieces_of(const ParameterSpec& spec) const;

 private:
  struct Constant {
    at::Tensor host;
    at::Tensor value; ///< on the device
  };

  parallel::Group tensor_ranks_;
  std::deque<Parameter> parameters_;
  std::deque<Constant> constants_;
  at::Device device_ = at::kCPU;
};

/// This rank's values by name, without gradients: what checkpoints read and write.
std::map<std::string, at::Tensor> parameter_tensors(const ParameterStore& store);

} // namespace baton::nn
