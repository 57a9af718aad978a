// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_state.h"

#include <optional>
#include <tuple>

#include <torch/library.h>

#include "baton/ops/cuda/ssd_sweep.h"

namespace baton::ops::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

template <SsdDirection direction>
std::tuple<at::Tensor, at::Tensor> states_cuda(
    const at::Tensor& values,
    const at::Tensor& dt,
    const at::Tensor& A,
    const at::Tensor& keys,
    const at::Tensor& starts,
    const OptionalTensor& dt_bias,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  const SsdTimeStep time_step{dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)};
  const SsdSizes sizes = checked_ssd_sizes(values, dt, A, keys, starts, time_step);
  check_device("dt", dt, values);
  check_device("A", A, values);
  check_device("B (or C)", keys, values);
  check_device("dt_bias", dt_bias, values);
  const SsdPlan plan(values, starts, sizes);
  const Launcher launcher(values);
  const SsdSweepOutput out = sweep(
      launcher,
      plan,
      {direction, SsdTokens(values), SsdTokens(keys), SsdTime(dt, A, time_step), SsdSource()});
  return {out.states_BHPN, out.log_decay_BH};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("ssd_state", &states_cuda<SsdDirection::kForward>);
  library.impl("ssd_state_grad", &states_cuda<SsdDirection::kReverse>);
}

} // namespace baton::ops::cuda
