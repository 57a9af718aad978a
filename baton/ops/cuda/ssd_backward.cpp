// SPDX-License-Identifier: Apache-2.0
// The backward scan on a GPU: a sweep forwards leaves the states that come into the chunks, a sweep
// backwards the gradients of those that leave them; then all chunks give their gradients in
// parallel.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/ssd_gradient_arguments.cuh"
#include "baton/ops/cuda/ssd_hopper.h"
#include "baton/ops/cuda/ssd_plan.h"
#include "baton/ops/cuda/ssd_sweep.h"
#include "baton/ops/cuda/write_gradients.h"
#include "baton/ops/cuda_kernels_ssd_backward.h"
#include "baton/ops/ssd_gradient_checks.h"

namespace baton::ops::cuda {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Gradients8 = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

constexpr std::int64_t kMostBlocks = 65535; // along the second side of a grid

// Blocks that fill any device several times over; heads of a block below which a partial sum in
// memory costs too much; blocks that are wanted even so.
constexpr std::int64_t kManyBlocks = 512;
constexpr std::int64_t kFewHeads = 8;
constexpr std::int64_t kFewBlocks = 128;

std::int64_t pieces(std::int64_t size, std::int64_t piece) {
  return (size + piece - 1) / piece;
}

/// Where a gradient [T, A, B] goes, in a form that kernels write: it itself where its tokens lie
/// dense and whole granules apart, else a dense tensor that `finish` copies there.
class Place {
 public:
  explicit Place(const Tensor& wanted)
      : wanted_(wanted),
        written_(fits(wanted) ? wanted : at::empty(wanted.sizes(), wanted.options())) {}

  void* data() const { return written_.mutable_data_ptr(); }
  int stride() const {
    return static_cast<int>(
        written_.size(0) > 1 ? written_.stride(0) : written_.size(1) * written_.size(2));
  }
  const Tensor& written() const { return written_; }
  void finish() const {
    if (!written_.is_same(wanted_)) {
      wanted_.copy_(written_);
    }
  }

 private:
  static bool fits(const Tensor& tensor) {
    if (tensor.is_contiguous() && tensor.storage_offset() == 0) {
      return true;
    }
    const SsdTokens tokens(tensor);
    return tokens.owner.is_same(tensor) && tokens.rows.packed &&
           tensor.stride(0) * kSsdChunk <= std::numeric_limits<std::int32_t>::max();
  }

  Tensor wanted_, written_;
};

/// One call's inputs, in the form in which kernels read them.
struct Operands {
  bool hopper = false; ///< whether the kernels of sm_90a take them
  SsdPlan plan;
  SsdTokens dy, x, keys, queries;
  SsdTime time;
  SsdSkip skip;
  SsdSource start, end;

  const SsdSizes& sizes() const { return plan.sizes; }
  std::int64_t passes() const { return pieces(plan.sizes.P, kSsdGradientColumns); }
  bool skip_per_channel() const { return skip.owner.defined() && skip.owner.dim() == 2; }
};

/// What is made in fp32 is cast to its input's dtype at the end.
struct Gradients {
  Place dx, dB, dC;
  Tensor ddt;           ///< [T, H], neighbours in a token, in the dtype that kernels read
  Tensor dA, dbias, dD; ///< fp32; dD may be empty
};

void launch(
    const Launcher& launcher,
    const SsdKernel& kernel,
    std::array<std::int64_t, 3> grid,
    const auto&... arguments) {
  launcher.launch(
      kernel.spec,
      {.grid =
           {static_cast<unsigned>(grid[0]),
            static_cast<unsigned>(grid[1]),
            static_cast<unsigned>(grid[2])},
       .block = {kernel.threads, 1, 1},
       .shared_bytes = kernel.shared_bytes},
      arguments...);
}

/// How many blocks share the heads of a group, from shapes alone.
std::int64_t choose_parts(const SsdPlan& plan) {
  const std::int64_t heads = plan.sizes.heads_per_group();
  const std::int64_t blocks = plan.chunks() * plan.sizes.G;
  const std::int64_t parts = std::clamp<std::int64_t>(
      pieces(kManyBlocks, blocks), 1, std::max<std::int64_t>(1, heads / kFewHeads));
  return std::max(parts, std::min(heads, pieces(kFewBlocks, blocks)));
}

void add_parts(const Launcher& launcher, const Tensor& parts, const Place& place) {
  const Tensor& out = place.written();
  if (out.numel() > 0) {
    const SsdKernel kernel = ssd_add_parts_kernel(out.scalar_type());
    launch(
        launcher,
        kernel,
        {pieces(out.numel(), kernel.threads), 1, 1},
        parts.const_data_ptr<float>(),
        out.mutable_data_ptr(),
        static_cast<long long>(out.numel()),
        static_cast<int>(parts.size(0)),
        static_cast<int>(out.size(1) * out.size(2)),
        place.stride());
  }
}

/// Fills what `out` names with one kernel, and the sums per token [chunks, H, passes, owners, sums,
/// 64].
void launch_chunk_gradients(
    const Launcher& launcher,
    const Operands& operands,
    const SsdChunkStates& states,
    const SsdGradientOutputs& out) {
  const SsdPlan& plan = operands.plan;
  const SsdSizes& sizes = plan.sizes;
  if (operands.hopper) {
    launch_hopper_gradients(
        launcher,
        plan,
        {operands.dy,
         operands.x,
         operands.keys,
         operands.queries,
         operands.time,
         operands.skip,
         states.entering_KHPN,
         states.leaving_KHPN},
        out);
    return;
  }
  launch(
      launcher,
      ssd_gradient_kernel(plan.dtype, sizes.N).kernel,
      {plan.chunks(), sizes.G * out.parts, out.owners},
      plan.layout(),
      operands.time.inputs,
      SsdGradientInputs{
          operands.dy.rows,
          operands.x.rows,
          operands.keys.rows,
          operands.queries.rows,
          states.entering_KHPN.const_data_ptr(),
          states.leaving_KHPN.const_data_ptr(),
          sizes.N % widest_pack(plan.dtype) == 0,
          operands.skip.inputs},
      out);
}

/// Fills dx, dB and dC, and returns the sums per token.
Tensor chunk_gradients(
    const Launcher& launcher,
    const Operands& operands,
    const SsdChunkStates& states,
    const Gradients& gradients) {
  const SsdPlan& plan = operands.plan;
  const SsdSizes& sizes = plan.sizes;
  const std::int64_t owners = ssd_gradient_kernel(plan.dtype, sizes.N).owners;
  const std::int64_t parts = choose_parts(plan);
  TORCH_CHECK(
      sizes.G * parts <= kMostBlocks,
      "the scan on a GPU takes at most ",
      kMostBlocks,
      " groups, got ",
      sizes.G);
  const auto sum_of = [&](const Place& gradient) {
    return parts == 1 ? gradient.written()
                      : at::empty({parts, sizes.T, sizes.G, sizes.N}, plan.state_options);
  };
  const auto stride_of = [&](const Place& gradient) {
    return parts == 1 ? gradient.stride() : static_cast<int>(sizes.G * sizes.N);
  };
  const Tensor dB = sum_of(gradients.dB);
  const Tensor dC = sum_of(gradients.dC);
  const Tensor token_sums = at::empty(
      {plan.chunks(), sizes.H, operands.passes(), owners, std::int64_t{kTokenSums}, kSsdChunk},
      plan.state_options);
  launch_chunk_gradients(
      launcher,
      operands,
      states,
      {gradients.dx.data(),
       dB.mutable_data_ptr(),
       dC.mutable_data_ptr(),
       gradients.dx.stride(),
       stride_of(gradients.dB),
       stride_of(gradients.dC),
       sizes.T,
       static_cast<int>(parts),
       static_cast<int>(owners),
       token_sums.mutable_data_ptr<float>()});
  if (parts > 1) {
    add_parts(launcher, dB, gradients.dB);
    add_parts(launcher, dC, gradients.dC);
  }
  return token_sums;
}

/// Fills ddt, dA, dbias and dD.
void time_gradients(
    const Launcher& launcher,
    const Operands& operands,
    const Tensor& token_sums,
    const Gradients& gradients) {
  const SsdPlan& plan = operands.plan;
  const std::int64_t H = plan.sizes.H;
  const int skip_columns = static_cast<int>(gradients.dD.numel());
  const Tensor chunk_sums = at::empty({plan.chunks(), 2 * H + skip_columns}, plan.state_options);
  launch(
      launcher,
      ssd_token_gradients_kernel(),
      {plan.chunks(), pieces(H, kSsdTokenHeads), 1},
      plan.layout(),
      operands.time.inputs,
      token_sums.const_data_ptr<float>(),
      static_cast<int>(token_sums.size(3)),
      SsdTimeGradients{
          gradients.ddt.mutable_data_ptr(),
          gradients.ddt.stride(0),
          chunk_sums.mutable_data_ptr<float>(),
          skip_columns,
          operands.skip_per_channel()});
  launch(
      launcher,
      ssd_sum_chunks_kernel(),
      {pieces(chunk_sums.size(1), kWarpThreads), 1, 1},
      chunk_sums.const_data_ptr<float>(),
      static_cast<long long>(chunk_sums.size(0)),
      static_cast<int>(H),
      skip_columns,
      gradients.dA.mutable_data_ptr<float>(),
      gradients.dbias.mutable_data_ptr<float>(),
      gradients.dD.mutable_data_ptr<float>());
}

/// The gradients of the states before the sequences, added up in the slots they came from.
Tensor
add_to_slots(const Launcher& launcher, const Operands& operands, const Tensor& of_sequences) {
  const SsdSource& start = operands.start;
  if (!start.slots_owner.defined()) {
    return of_sequences;
  }
  const Tensor gradient = at::empty(start.owner.sizes(), of_sequences.options());
  const std::int64_t size = gradient.numel() / std::max<std::int64_t>(1, gradient.size(0));
  const SsdKernel kernel = ssd_add_to_slots_kernel();
  for (std::int64_t first = 0; first < gradient.size(0); first += kMostBlocks) {
    launch(
        launcher,
        kernel,
        {pieces(size, kernel.threads), std::min(kMostBlocks, gradient.size(0) - first), 1},
        of_sequences.const_data_ptr<float>(),
        start.states.slots,
        static_cast<int>(operands.sizes().B),
        static_cast<int>(first),
        static_cast<long long>(size),
        gradient.mutable_data_ptr<float>());
  }
  return gradient;
}

SsdChunkStates sweep_states(const Launcher& launcher, const Operands& operands) {
  const SsdPlan& plan = operands.plan;
  const SsdWalk forward{
      SsdDirection::kForward,
      operands.x,
      operands.keys,
      operands.time,
      operands.start,
      /*ends=*/false};
  const SsdWalk backward{
      SsdDirection::kReverse,
      operands.dy,
      operands.queries,
      operands.time,
      operands.end,
      /*ends=*/operands.start.owner.defined()};
  return sweep_both_ways(launcher, plan, forward, backward);
}

/// Fills `gradients` and returns that of the initial states, if there are any. There is at least
/// one sequence.
Tensor
run_backward(const Launcher& launcher, const Operands& operands, const Gradients& gradients) {
  const SsdChunkStates states = sweep_states(launcher, operands);
  const Tensor token_sums = chunk_gradients(launcher, operands, states, gradients);
  time_gradients(launcher, operands, token_sums, gradients);
  return operands.start.owner.defined() ? add_to_slots(launcher, operands, states.dinitial_BHPN)
                                        : Tensor();
}

Operands operands_of(
    const Launcher& launcher,
    const Tensor& dy,
    const OptionalTensor& dfinal_states,
    const SsdInputs& in,
    const SsdStart& start,
    const SsdSizes& sizes) {
  const auto source = [](const OptionalTensor& states, const OptionalTensor& slots) {
    return states.has_value() ? SsdSource(*states, slots) : SsdSource();
  };
  const SsdStream stream = join_short_sequences(
      launcher, in.starts, sizes, start.states_SHPN.has_value() || dfinal_states.has_value());
  const SsdTokens slopes(dy);
  const SsdTokens x(in.x_THP);
  const SsdTokens keys(in.B_TGN);
  const SsdTokens queries(in.C_TGN);
  return {
      takes_hopper(launcher, in.x_THP.scalar_type(), sizes, {&slopes, &x, &keys, &queries}),
      // Both walks run at once.
      SsdPlan(in.x_THP, stream.starts, stream.sizes, SsdPlan::kOneBlockEach / 2),
      slopes,
      x,
      keys,
      queries,
      SsdTime(in.dt_TH, in.A_H, in.time_step, stream.marks),
      SsdSkip(in.D),
      source(start.states_SHPN, start.slots_B),
      source(dfinal_states, std::nullopt)};
}

Gradients8 ssd_backward_cuda(
    const Tensor& dy,
    const OptionalTensor& dfinal_states,
    const Tensor& x,
    const Tensor& dt,
    const Tensor& A,
    const Tensor& B,
    const Tensor& C,
    const Tensor& starts,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  const SsdTimeStep time_step{dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)};
  const auto like = [](const Tensor& tensor) {
    return at::empty(tensor.sizes(), tensor.options());
  };
  SsdGradients made = write_ssd_gradients(
      dy,
      dfinal_states,
      {x, dt, A, B, C, starts, D, time_step},
      {initial_states, initial_slots},
      {like(x), like(dt), {}, like(B), like(C), {}, {}, {}});
  return {
      made.dx_THP,
      made.ddt_TH,
      made.dA_H,
      made.dB_TGN,
      made.dC_TGN,
      made.dD,
      made.ddt_bias_H,
      made.dinitial_states_SHPN};
}

} // namespace

SsdGradients write_ssd_gradients(
    const Tensor& dy,
    const OptionalTensor& dfinal_states,
    const SsdInputs& in,
    const SsdStart& start,
    SsdGradients made) {
  const SsdSizes sizes = checked_ssd_inputs(in, start);
  check_ssd_gradients(dy, dfinal_states, in.x_THP, sizes);
  check_devices(in, start);
  check_device("dy", dy, in.x_THP);
  check_device("dfinal_states", dfinal_states, in.x_THP);
  const Launcher launcher(in.x_THP);
  const Operands operands = operands_of(launcher, dy, dfinal_states, in, start, sizes);
  const at::TensorOptions& fp32 = operands.plan.state_options;
  const Tensor& dt = operands.time.dt;
  const bool as_read = dt.scalar_type() == made.ddt_TH.scalar_type();
  const Gradients gradients{
      Place(made.dx_THP),
      Place(made.dB_TGN),
      Place(made.dC_TGN),
      as_read ? made.ddt_TH : at::empty(dt.sizes(), dt.options()),
      at::empty({sizes.H}, fp32),
      at::empty({sizes.H}, fp32),
      in.D.has_value() ? at::empty(in.D->sizes(), fp32) : at::empty({0}, fp32)};
  Tensor dinitial;
  if (sizes.B > 0) {
    dinitial = run_backward(launcher, operands, gradients);
  } else {
    for (const Tensor& sum : {gradients.dA, gradients.dbias, gradients.dD}) {
      sum.zero_();
    }
    if (start.states_SHPN.has_value()) {
      dinitial = at::zeros(start.states_SHPN->sizes(), fp32);
    }
  }
  for (const Place* place : {&gradients.dx, &gradients.dB, &gradients.dC}) {
    place->finish();
  }
  if (!as_read) {
    made.ddt_TH.copy_(gradients.ddt);
  }
  const auto if_given = [&](const OptionalTensor& tensor, const Tensor& gradient) {
    return tensor.has_value() ? gradient.to(tensor->scalar_type())
                              : at::empty({0}, in.x_THP.options());
  };
  made.dA_H = gradients.dA.to(in.A_H.scalar_type());
  made.dD = if_given(in.D, gradients.dD);
  made.ddt_bias_H = if_given(in.time_step.bias_H, gradients.dbias);
  made.dinitial_states_SHPN = if_given(start.states_SHPN, dinitial);
  return made;
}

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("ssd_backward", &ssd_backward_cuda);
}

} // namespace baton::ops::cuda
