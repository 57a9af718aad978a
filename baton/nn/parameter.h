// SPDX-License-Identifier: Apache-2.0
// Parameters as data: what a layer declares, and the storage that holds the values.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/base/random.h"

namespace baton::nn {

/// How tensor parallelism divides a parameter. `dim` -1 means every rank holds all of it. A packed
/// dim (in_proj holds z, x, B, C, dt) lists the sizes of its parts: each is divided on its own.
struct ParameterCut {
  int dim = -1;
  std::vector<std::int64_t> parts;
};

/// Everything about a parameter but its values.
struct ParameterSpec {
  /// Global start values, fp64 of the global shape: a function of the key alone, so that any rank
  /// may compute the slice that it holds.
  using StartValues = std::function<at::Tensor(RandomKey, at::IntArrayRef)>;

  std::string name;                ///< "layers.3.mixer.in_proj.weight"
  std::vector<std::int64_t> shape; ///< global
  ParameterCut cut;
  std::string gradient_group = "data"; ///< mesh axes over which its gradient is summed
  StartValues start;
  bool weight_decay = true; ///< false for biases, norms, A_log, D, dt_bias
  bool keep_fp32 = false;   ///< stays fp32 (fp64 in an fp64 model) whatever the model's dtype
};

struct Parameter {
  ParameterSpec spec;
  at::Tensor value; ///< a leaf that requires grad after `ParameterStore::initialize`
};

/// Start values of the usual kinds.
ParameterSpec::StartValues start_constant(double value);
ParameterSpec::StartValues start_normal(double deviation);
ParameterSpec::StartValues start_uniform(double low, double high);

/// Owns the parameters of a model in the order of their declaration.
class ParameterStore {
 public:
  /// Adds a parameter; the reference stays valid for the life of the store. Throws on a second
  /// parameter of the same name.
  const Parameter& declare(ParameterSpec spec);

  /// Adds a tensor that a layer computes once on the CPU and that training leaves alone, such as
  /// rotary frequencies. The reference, valid for the life of the store, is to it on the device of
  /// the parameters. No checkpoint holds it.
  const at::Tensor& declare_constant(at::Tensor value);

  /// Allocates all parameters on `device` in `dtype` and fills them with their start values.
  void initialize(std::uint64_t seed, at::ScalarType dtype, at::Device device);

  /// Allocates all parameters without values, for a checkpoint to fill.
  void allocate(at::ScalarType dtype, at::Device device);

  const std::deque<Parameter>& parameters() const { return parameters_; }

  /// Where the parameters are; the CPU before they are allocated.
  at::Device device() const { return device_; }

  /// Throws when there is no such parameter.
  const Parameter& at(std::string_view name) const;

  std::int64_t num_values() const;

 private:
  struct Constant {
    at::Tensor host;
    at::Tensor value; ///< on the device
  };

  std::deque<Parameter> parameters_;
  std::deque<Constant> constants_;
  at::Device device_ = at::kCPU;
};

/// The values by name, without gradients: what checkpoints read and write.
std::map<std::string, at::Tensor> parameter_tensors(const ParameterStore& store);

} // namespace baton::nn
