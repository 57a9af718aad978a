// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/parameter.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>

namespace baton::nn {

at::ScalarType storage_dtype(const ParameterSpec& spec, at::ScalarType dtype) {
  return spec.keep_fp32 && dtype != at::kDouble ? at::kFloat : dtype;
}

ParameterSpec::StartValues start_constant(double value) {
  return [value](RandomKey, at::IntArrayRef shape) { return at::full(shape, value, at::kDouble); };
}

ParameterSpec::StartValues start_normal(double deviation) {
  return
      [deviation](RandomKey key, at::IntArrayRef shape) { return normal(key, shape, deviation); };
}

ParameterSpec::StartValues start_uniform(double low, double high) {
  return
      [low, high](RandomKey key, at::IntArrayRef shape) { return uniform(key, shape, low, high); };
}

const Parameter& ParameterStore::declare(ParameterSpec spec) {
  const auto same_name = [&](const Parameter& parameter) {
    return parameter.spec.name == spec.name;
  };
  TORCH_INTERNAL_ASSERT(
      std::none_of(parameters_.begin(), parameters_.end(), same_name),
      "parameter declared twice: ",
      spec.name);
  return parameters_.emplace_back(Parameter{.spec = std::move(spec), .value = {}});
}

const at::Tensor& ParameterStore::declare_constant(const at::Tensor& value) {
  return constants_.emplace_back(Constant{.host = value, .value = value}).value;
}

void ParameterStore::allocate(at::ScalarType dtype, at::Device device) {
  device_ = device;
  for (Constant& constant : constants_) {
    constant.value = constant.host.to(device);
  }
  for (Parameter& parameter : parameters_) {
    const at::ScalarType stored = storage_dtype(parameter.spec, dtype);
    parameter.value = at::empty(
        own_shape(
            parameter.spec.shape, parameter.spec.cut, tensor_ranks_.rank(), tensor_ranks_.size()),
        at::TensorOptions().dtype(stored).device(device));
    parameter.value.set_requires_grad(true);
  }
}

void ParameterStore::initialize(std::uint64_t seed, at::ScalarType dtype, at::Device device) {
  allocate(dtype, device);
  const RandomKey key = RandomKey(seed).with("start values");
  for (Parameter& parameter : parameters_) {
    const at::Tensor values =
        parameter.spec.start(key.with(parameter.spec.name), parameter.spec.shape);
    parameter.value.detach().copy_(
        own_values(values, parameter.spec.cut, tensor_ranks_.rank(), tensor_ranks_.size()));
  }
}

const Parameter& ParameterStore::at(std::string_view name) const {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const Parameter& parameter) {
        return parameter.spec.name == name;
      });
  TORCH_CHECK(found != parameters_.end(), "no parameter named '", name, "'");
  return *found;
}

std::vector<ParameterPiece> ParameterStore::pieces_of(const ParameterSpec& spec) const {
  return nn::pieces_of(spec.shape, spec.cut, tensor_ranks_.rank(), tensor_ranks_.size());
}

std::int64_t ParameterStore::num_values() const {
  return std::accumulate(
      parameters_.begin(),
      parameters_.end(),
      std::int64_t{0},
      [](std::int64_t sum, const auto& item) {
        return sum + std::accumulate(
                         item.spec.shape.begin(),
                         item.spec.shape.end(),
                         std::int64_t{1},
                         std::multiplies<>());
      });
}

std::map<std::string, at::Tensor> parameter_tensors(const ParameterStore& store) {
  std::map<std::string, at::Tensor> tensors;
  for (const Parameter& parameter : store.parameters()) {
    tensors.emplace(parameter.spec.name, parameter.value.detach());
  }
  return tensors;
}

} // namespace baton::nn
