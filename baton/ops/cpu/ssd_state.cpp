// SPDX-License-Identifier: Apache-2.0
// States and state gradients of whole sequences on the CPU: the scan's sweeps without its outputs.
#include "baton/ops/ssd_state.h"

#include <optional>
#include <tuple>

#include <torch/library.h>

#include "baton/ops/cpu/ssd_sweep.h"

namespace baton::ops::cpu {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using States = std::tuple<at::Tensor, at::Tensor>;

template <class Real>
at::Tensor total_log_decay(const SsdPlan<Real>& plan) {
  const std::int64_t H = plan.sizes.H;
  std::vector<double> sums(static_cast<std::size_t>(plan.sizes.B * H), 0.0);
  for (const SsdChunk& chunk : plan.chunks) {
    for (std::int64_t h = 0; h < H; ++h) {
      sums[chunk.sequence * H + h] += plan.log_decay(chunk, h);
    }
  }
  at::Tensor out = at::empty({plan.sizes.B, H}, plan.dt_HT.options());
  std::copy(sums.begin(), sums.end(), out.mutable_data_ptr<Real>());
  return out;
}

template <class In, class Real>
States run_states(
    SsdDirection direction,
    const at::Tensor& values,
    const at::Tensor& keys,
    const SsdPlan<Real>& plan) {
  const at::Tensor value_owner = with_dense_rows(values);
  const at::Tensor key_owner = with_dense_rows(keys);
  const std::int64_t num_chunks = static_cast<std::int64_t>(plan.chunks.size());
  const std::int64_t window = std::min(plan.window(), num_chunks);
  const std::int64_t size = plan.sizes.state_size();
  const std::int64_t H = plan.sizes.H;
  at::Tensor out = at::zeros({plan.sizes.B, H, plan.sizes.P, plan.sizes.N}, plan.dt_HT.options());
  Real* to = out.mutable_data_ptr<Real>();
  const Scratch<Real> states = make_scratch<Real>(window * H * size);
  const Scratch<Real> carry = make_scratch<Real>(H * size);
  const SsdInitial<Real> zero;
  for (std::int64_t done = 0; done < num_chunks; done += window) {
    const std::int64_t count = std::min(window, num_chunks - done);
    const bool forward = direction == SsdDirection::kForward;
    const std::int64_t first = forward ? done : num_chunks - done - count;
    add_up_chunks(
        plan,
        direction,
        token_rows<In>(value_owner),
        token_rows<In>(key_owner),
        first,
        first + count,
        states.get());
    if (forward) {
      scan_states(plan, zero, first, first + count, states.get(), carry.get(), to);
    } else {
      scan_state_gradients<Real>(
          plan,
          nullptr,
          first,
          first + count,
          states.get(),
          carry.get(),
          [&](std::int64_t sequence, std::int64_t head, const Real* state) {
            std::copy_n(state, size, to + (sequence * H + head) * size);
          });
    }
  }
  return {out, total_log_decay(plan)};
}

template <SsdDirection direction>
States states_cpu(
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
  if (values.scalar_type() == at::kDouble) {
    const SsdPlan<double> plan(sizes, dt, A, starts, time_step);
    return run_states<double>(direction, values, keys, plan);
  }
  const SsdPlan<float> plan(sizes, dt, A, starts, time_step);
  return values.scalar_type() == at::kFloat
             ? run_states<float>(direction, values, keys, plan)
             : run_states<c10::BFloat16>(direction, values, keys, plan);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("ssd_state", &states_cpu<SsdDirection::kForward>);
  library.impl("ssd_state_grad", &states_cpu<SsdDirection::kBackward>);
}

} // namespace baton::ops::cpu
