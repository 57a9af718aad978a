// SPDX-License-Identifier: Apache-2.0
#include "baton/train/optimizer.h"

#include <cmath>
#include <numeric>
#include <set>
#include <tuple>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "baton/base/error.h"
#include "baton/ops/adamw.h"
#include "baton/ops/sum_squares.h"

namespace baton::train {
namespace {

void check_config(const OptimizerConfig& config) {
  TORCH_CHECK(config.beta1 >= 0.0 && config.beta1 < 1.0, "beta1 must be in [0, 1): ", config.beta1);
  TORCH_CHECK(config.beta2 >= 0.0 && config.beta2 < 1.0, "beta2 must be in [0, 1): ", config.beta2);
  TORCH_CHECK(config.eps >= 0.0, "eps must not be negative: ", config.eps);
  TORCH_CHECK(
      config.weight_decay >= 0.0, "weight_decay must not be negative: ", config.weight_decay);
  TORCH_CHECK(config.clip_norm >= 0.0, "clip_norm must not be negative: ", config.clip_norm);
}

at::ScalarType dtype_of_moments(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

bool wants_master(at::ScalarType dtype, const OptimizerConfig& config) {
  return config.master_weights && dtype == at::kBFloat16;
}

/// The sum of fp64 values on the CPU in their order.
double sum_in_order(const at::Tensor& values) {
  const double* data = values.const_data_ptr<double>();
  return std::accumulate(data, data + values.numel(), 0.0);
}

double parameter_norm(const nn::ParameterStore& parameters) {
  std::vector<at::Tensor> values;
  for (const nn::Parameter& parameter : parameters.parameters()) {
    values.push_back(parameter.value);
  }
  return std::sqrt(sum_in_order(squares_of(values).cpu()));
}

} // namespace

std::vector<at::Tensor> gradients(const nn::ParameterStore& parameters) {
  std::vector<at::Tensor> all;
  all.reserve(parameters.parameters().size());
  for (const nn::Parameter& parameter : parameters.parameters()) {
    const at::Tensor& gradient = parameter.value.grad();
    TORCH_CHECK(
        gradient.defined(),
        "parameter '",
        parameter.spec.name,
        "' has no gradient: the loss does not depend on it, or no backward pass ran");
    all.push_back(gradient);
  }
  return all;
}

at::Tensor squares_of(at::TensorList gradients) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> squares;
  squares.reserve(gradients.size());
  for (const at::Tensor& gradient : gradients) {
    squares.push_back(ops::sum_squares(gradient));
  }
  return squares.empty() ? at::empty({0}, at::kDouble) : at::stack(squares);
}

void refuse_gradient(
    const std::string& parameter,
    std::int64_t nans,
    std::int64_t infinities,
    std::int64_t size) {
  throw RunError(
      "the gradient of '" + parameter + "' is not finite: " + std::to_string(nans) + " NaN and " +
      std::to_string(infinities) + " infinite of " + std::to_string(size) + " values");
}

void clear_gradients(const nn::ParameterStore& parameters) {
  for (const nn::Parameter& parameter : parameters.parameters()) {
    parameter.value.mutable_grad() = at::Tensor();
  }
}

OwnedValues all_values(const nn::ParameterStore& parameters) {
  OwnedValues all;
  for (std::size_t i = 0; i < parameters.parameters().size(); ++i) {
    all.slices.push_back({.parameter = i, .length = parameters.parameters()[i].value.numel()});
  }
  return all;
}

AdamW::AdamW(const nn::ParameterStore& parameters, OptimizerConfig config)
    : AdamW(parameters, config, all_values(parameters)) {}

AdamW::AdamW(const nn::ParameterStore& parameters, OptimizerConfig config, OwnedValues owned)
    : parameters_(parameters), config_(config), owned_(std::move(owned)) {
  check_config(config_);
  slots_.reserve(owned_.slices.size());
  for (std::size_t i = 0; i < owned_.slices.size(); ++i) {
    const at::Tensor value = value_of(i);
    const at::ScalarType kept = dtype_of_moments(value.scalar_type());
    slots_.push_back(
        {.exp_avg = at::zeros_like(value, kept),
         .exp_avg_sq = at::zeros_like(value, kept),
         .master = wants_master(value.scalar_type(), config_) ? value.to(kept) : at::Tensor()});
  }
}

const nn::Parameter& AdamW::parameter_of(std::size_t slot) const {
  return parameters_.parameters()[owned_.slices[slot].parameter];
}

/// What this rank owns of the slot's parameter, as it lies in memory now.
at::Tensor AdamW::value_of(std::size_t slot) const {
  const parallel::BucketSlice& slice = owned_.slices[slot];
  const at::Tensor value = parameter_of(slot).value.detach();
  const bool whole = slice.length == value.numel();
  return whole ? value : value.view({-1}).narrow(0, slice.begin, slice.length);
}

/// Of each parameter's whole gradient, on the CPU.
at::Tensor AdamW::sum_squares_of(at::TensorList gradients) const {
  const at::Tensor own = squares_of(gradients);
  std::vector<std::int64_t> places;
  for (const parallel::BucketSlice& slice : owned_.slices) {
    places.push_back(static_cast<std::int64_t>(slice.parameter));
  }
  const auto count = static_cast<std::int64_t>(parameters_.parameters().size());
  const at::Tensor all = at::zeros({count}, own.options());
  all.index_copy_(0, at::tensor(places, at::kLong).to(own.device()), own);
  owned_.replicas.all_reduce_(all);
  return all.cpu();
}

void AdamW::report_bad_values(at::TensorList gradients, std::size_t parameter) const {
  at::Tensor counts = at::zeros({2}, at::TensorOptions(at::kDouble).device(parameters_.device()));
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (owned_.slices[i].parameter == parameter) {
      counts = at::stack({gradients[i].isnan().sum(), gradients[i].isinf().sum()}).to(at::kDouble);
    }
  }
  owned_.replicas.all_reduce_(counts);
  const auto count = [&](int i) { return static_cast<std::int64_t>(counts[i].item<double>()); };
  const nn::Parameter& bad = parameters_.parameters()[parameter];
  refuse_gradient(bad.spec.name, count(0), count(1), bad.value.numel());
}

double AdamW::checked_norm(at::TensorList gradients) const {
  const at::Tensor squares = sum_squares_of(gradients);
  const double* data = squares.const_data_ptr<double>();
  for (std::int64_t i = 0; i < squares.numel(); ++i) {
    if (!std::isfinite(data[i])) {
      report_bad_values(gradients, static_cast<std::size_t>(i));
    }
  }
  return std::sqrt(sum_in_order(squares));
}

std::int64_t AdamW::count_zeros(at::TensorList gradients) const {
  at::Tensor zeros = at::zeros({1}, at::TensorOptions(at::kDouble).device(parameters_.device()));
  for (const at::Tensor& gradient : gradients) {
    zeros += gradient.numel() - at::count_nonzero(gradient);
  }
  owned_.replicas.all_reduce_(zeros);
  return static_cast<std::int64_t>(zeros.item<double>());
}

StepReport AdamW::step(const StepRequest& request, at::TensorList gradients) {
  return step(request, gradients, checked_norm(gradients));
}

StepReport AdamW::step(
    const StepRequest& request,
    at::TensorList gradients,
    double norm,
    const std::function<void(std::size_t bucket)>& on_updated) {
  TORCH_CHECK(
      gradients.size() == slots_.size(),
      "the optimizer wants one gradient per parameter: ",
      gradients.size(),
      " vs ",
      slots_.size());
  const at::NoGradGuard no_grad;
  StepReport report;
  report.grad_norm = norm * request.grad_scale;
  if (config_.clip_norm > 0.0 && report.grad_norm > config_.clip_norm) {
    report.clip_scale = config_.clip_norm / report.grad_norm;
  }
  if (request.count_zero_gradients) {
    report.zero_gradients = count_zeros(gradients);
  }
  const ops::AdamwStep step{
      .lr = request.lr,
      .beta1 = config_.beta1,
      .beta2 = config_.beta2,
      .eps = config_.eps,
      .step = num_steps_ + 1,
      .grad_scale = request.grad_scale * report.clip_scale};
  std::size_t slot = 0;
  for (std::size_t bucket = 0; bucket < owned_.num_buckets; ++bucket) {
    for (; slot < slots_.size() && owned_.slices[slot].bucket == bucket; ++slot) {
      update(slot, gradients[slot], step);
    }
    if (on_updated) {
      on_updated(bucket);
    }
  }
  ++num_steps_;
  if (request.parameter_norm) {
    report.parameter_norm = parameter_norm(parameters_);
  }
  return report;
}

void AdamW::update(std::size_t slot, const at::Tensor& gradient, ops::AdamwStep step) const {
  ops::AdamwMoments moments{slots_[slot].exp_avg, slots_[slot].exp_avg_sq, std::nullopt};
  if (slots_[slot].master.defined()) {
    moments.master = slots_[slot].master;
  }
  step.weight_decay = parameter_of(slot).spec.weight_decay ? config_.weight_decay : 0.0;
  ops::adamw_(value_of(slot), gradient, moments, step);
}

void AdamW::load_kernels() const {
  const at::NoGradGuard no_grad;
  // Which kernel an update takes follows from dtypes and from whether packs of values fit.
  constexpr std::int64_t kWidestPack = 16;
  std::set<std::tuple<at::ScalarType, bool, bool>> kinds;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const at::Tensor value = value_of(i);
    const bool packs = value.numel() % kWidestPack == 0;
    if (!kinds.emplace(value.scalar_type(), slots_[i].master.defined(), packs).second) {
      continue;
    }
    const std::int64_t few = packs ? kWidestPack : value.numel() % kWidestPack;
    const auto copy = [&](const at::Tensor& tensor) {
      return tensor.flatten().narrow(0, 0, few).clone();
    };
    ops::AdamwMoments moments{copy(slots_[i].exp_avg), copy(slots_[i].exp_avg_sq), std::nullopt};
    if (slots_[i].master.defined()) {
      moments.master = copy(slots_[i].master);
    }
    const at::Tensor parameter = copy(value);
    ops::adamw_(parameter, at::zeros_like(parameter), moments, {.step = 1});
  }
}

std::vector<OptimizerState> AdamW::states() const {
  std::vector<OptimizerState> all;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const parallel::BucketSlice& slice = owned_.slices[i];
    const auto add = [&](const char* kind, const at::Tensor& values) {
      if (values.defined()) {
        all.push_back({slice.parameter, kind, values, slice.begin});
      }
    };
    add("exp_avg", slots_[i].exp_avg);
    add("exp_avg_sq", slots_[i].exp_avg_sq);
    add("master", slots_[i].master);
  }
  return all;
}

NamedTensors AdamW::state() const {
  NamedTensors all;
  for (const OptimizerState& each : states()) {
    const std::string& name = parameters_.parameters()[each.parameter].spec.name;
    all.emplace_back(name + "." + each.kind, each.values);
  }
  return all;
}

std::vector<std::pair<const char*, at::ScalarType>> AdamW::kinds_of(at::ScalarType dtype) const {
  const at::ScalarType kept = dtype_of_moments(dtype);
  std::vector<std::pair<const char*, at::ScalarType>> kinds{
      {"exp_avg", kept}, {"exp_avg_sq", kept}};
  if (wants_master(dtype, config_)) {
    kinds.emplace_back("master", kept);
  }
  return kinds;
}

void AdamW::load(const NamedTensors& state, std::int64_t num_steps) {
  TORCH_CHECK(num_steps >= 0, "the number of optimizer steps must not be negative: ", num_steps);
  std::unordered_map<std::string, at::Tensor> saved(state.begin(), state.end());
  const NamedTensors own = this->state();
  for (const auto& [name, tensor] : own) {
    const auto found = saved.find(name);
    TORCH_CHECK(found != saved.end(), "the saved optimizer state lacks '", name, "'");
    const at::Tensor& value = found->second;
    TORCH_CHECK(
        value.sizes() == tensor.sizes() && value.scalar_type() == tensor.scalar_type(),
        "the saved optimizer state's '",
        name,
        "' is ",
        value.scalar_type(),
        " ",
        value.sizes(),
        ", expected ",
        tensor.scalar_type(),
        " ",
        tensor.sizes());
  }
  if (saved.size() != own.size()) {
    for (const auto& [name, tensor] : own) {
      saved.erase(name);
    }
    TORCH_CHECK(
        false, "the saved optimizer state holds '", saved.begin()->first, "', which is unknown");
  }
  for (const auto& [name, tensor] : own) {
    tensor.copy_(saved.at(name));
  }
  num_steps_ = num_steps;
}

} // namespace baton::train
