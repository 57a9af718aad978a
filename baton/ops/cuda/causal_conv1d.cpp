// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/causal_conv1d.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/causal_conv1d_arguments.cuh"
#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda/write_gradients.h"
#include "baton/ops/cuda_kernels_conv.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/slots.h"
#include "baton/ops/tuning.h"

namespace baton::ops::cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr std::int64_t kMostInt = std::numeric_limits<std::int32_t>::max();

// Tokens that threads count beyond the last one, at most.
constexpr std::int64_t kCountedBeyond = 1 << 16;

// A run reads K-1 tokens that others read too, so it is not too short.
constexpr std::int64_t kShortestRun = 16;
constexpr std::int64_t kRunStep = 8;

std::int64_t divide_up(std::int64_t count, std::int64_t by) {
  return (count + by - 1) / by;
}

unsigned blocks_for(std::int64_t count) {
  TORCH_CHECK(count <= kMostInt, "a kernel takes 2^31 - 1 blocks, got ", count);
  return static_cast<unsigned>(count);
}

/// Whether rows lie less than 2^31 bytes apart.
bool is_near(const at::Tensor& rows) {
  return rows.size(0) <= 1 || rows.stride(0) * rows.element_size() <= kMostInt;
}

/// As `as_rows`, with rows less than 2^31 bytes apart.
at::Tensor near_rows(const at::Tensor& tensor) {
  at::Tensor rows = as_rows(tensor);
  return is_near(rows) ? rows : rows.contiguous();
}

int row_stride(const at::Tensor& rows) {
  return static_cast<int>(rows.size(0) > 1 ? rows.stride(0) : rows.size(1));
}

int is_fp32(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat ? 1 : 0;
}

/// What all launches of one call share: its tensors as the kernels read them, and the arguments.
struct ConvCall {
  ConvCall(
      const at::Tensor& x_TC,
      const at::Tensor& weight_CK,
      const OptionalTensor& bias_C,
      bool silu)
      : x(near_rows(x_TC)), weight(weight_CK.contiguous()) {
    TORCH_CHECK(
        x.size(0) <= kMostInt - kCountedBeyond, "too many tokens for one call: ", x.size(0));
    TORCH_CHECK(
        x.size(1) * (kMaxConvWidth + 1) * x.element_size() <= kMostInt,
        "too many channels: ",
        x.size(1));
    if (bias_C) {
      bias = bias_C->contiguous();
      given.bias = bias.const_data_ptr();
      given.fp32_bias = is_fp32(bias);
    }
    given.x = x.const_data_ptr();
    given.x_stride = row_stride(x);
    given.weight = weight.const_data_ptr();
    given.fp32_weight = is_fp32(weight);
    given.tokens = static_cast<int>(x.size(0));
    given.channels = static_cast<int>(x.size(1));
    given.width = static_cast<int>(weight.size(1));
    given.silu = silu ? 1 : 0;
  }

  void read_starts(const at::Tensor& starts_B1) {
    TORCH_CHECK(
        starts_B1.dim() == 1 && starts_B1.size(0) >= 1 && starts_B1.scalar_type() == at::kInt &&
            starts_B1.device() == x.device(),
        "starts must be int32 [B + 1] on ",
        x.device(),
        ", got ",
        starts_B1.scalar_type(),
        " ",
        starts_B1.sizes(),
        " on ",
        starts_B1.device());
    starts = starts_B1.contiguous();
    given.starts = starts.const_data_ptr<int>();
    given.sequences = static_cast<int>(starts.size(0) - 1);
    TORCH_CHECK(
        given.sequences > 0 || given.tokens == 0,
        "starts names no sequence for ",
        given.tokens,
        " tokens");
  }

  void read_states(const OptionalTensor& initial_states, const OptionalTensor& slots_B) {
    if (!initial_states) {
      return;
    }
    states = *initial_states;
    check_device("states", states);
    if (states.size(0) > 0 && !states.select(0, 0).is_contiguous()) {
      states = states.contiguous();
    }
    given.states = states.const_data_ptr();
    given.state_stride = states.stride(0);
    given.slots = static_cast<int>(states.size(0));
    given.fp32_states = is_fp32(states);
    read_slots(slots_B);
  }

  void read_slots(const OptionalTensor& slots_B) {
    if (slots_B) {
      check_device("slots", *slots_B);
      slots = slots_B->contiguous();
      given.slots_B = slots.const_data_ptr<int>();
    }
  }

  void check_device(const char* name, const at::Tensor& tensor) const {
    TORCH_CHECK(
        tensor.device() == x.device(),
        name,
        " must be on ",
        x.device(),
        ", not on ",
        tensor.device());
  }

  /// Neighbouring channels that a thread can take.
  std::int64_t pack() const {
    const std::int64_t widest = widest_conv_pack(x.scalar_type());
    const bool fit = packs_fit(x, widest) && packs_fit(weight.view(-1), widest) &&
                     (!bias.defined() || packs_fit(bias, widest));
    return fit ? widest : 1;
  }

  ConvTuning tuning(const Launcher& launcher) const {
    return tuning_of(launcher.arch(), x.numel() * x.element_size()).conv;
  }

  /// Cuts the tokens into runs, of at least so many warps where there are enough tokens.
  void cut(std::int64_t pack, std::int64_t warps, std::int64_t longest_run) {
    const std::int64_t columns = divide_up(x.size(1), kConvLanes * pack);
    const std::int64_t even = divide_up(x.size(0) * columns, warps);
    const std::int64_t run =
        std::clamp(divide_up(even, kRunStep) * kRunStep, kShortestRun, longest_run);
    given.columns = static_cast<int>(columns);
    given.run = static_cast<int>(run);
    given.tiles = static_cast<int>(divide_up(x.size(0), run * kConvRuns));
  }

  std::int64_t token_blocks() const {
    return static_cast<std::int64_t>(given.columns) * given.tiles;
  }

  /// Blocks that take the state of one channel a thread.
  std::int64_t state_blocks(std::int64_t states_count) const {
    return given.width > 1 ? states_count * divide_up(x.size(1), kConvThreads) : 0;
  }

  at::Tensor x;
  at::Tensor weight;
  at::Tensor bias; ///< undefined without one
  at::Tensor starts;
  at::Tensor states; ///< undefined without them
  at::Tensor slots;
  ConvArguments given{};
};

std::tuple<at::Tensor, at::Tensor> causal_conv1d_cuda(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool silu) {
  check_causal_conv1d(
      x_TC, weight_CK, bias_C, starts_B1.numel() - 1, initial_states, initial_slots_B);
  ConvCall call(x_TC, weight_CK, bias_C, silu);
  call.read_starts(starts_B1);
  call.read_states(initial_states, initial_slots_B);
  const auto state_dtype = initial_states ? initial_states->scalar_type() : x_TC.scalar_type();
  at::Tensor y_TC = at::empty(x_TC.sizes(), x_TC.options());
  at::Tensor final_states = at::empty(
      {call.given.sequences, call.given.channels, call.given.width - 1},
      x_TC.options().dtype(state_dtype));
  const std::int64_t pack = call.pack();
  const Launcher launcher(x_TC);
  const ConvTuning tuning = call.tuning(launcher);
  call.cut(pack, tuning.warps, tuning.longest_run);
  const std::int64_t blocks = call.token_blocks() + call.state_blocks(call.given.sequences);
  if (blocks > 0) {
    // Final states have the dtype of the initial ones, so without those the flag stays 0.
    launcher.launch(
        causal_conv1d_kernel(x_TC.scalar_type(), pack, call.given.width, silu),
        {.grid = {blocks_for(blocks), 1, 1}, .block = {kConvThreads, 1, 1}},
        call.given,
        y_TC.mutable_data_ptr(),
        final_states.mutable_data_ptr());
  }
  return {y_TC, final_states};
}

/// dweight and dbias, from the partial sums of the tiles.
std::tuple<at::Tensor, at::Tensor> parameter_gradients(
    const Launcher& launcher,
    const ConvCall& call,
    const at::Tensor& partials,
    const at::Tensor& none) {
  at::Tensor dweight = at::empty(call.weight.sizes(), call.weight.options());
  at::Tensor dbias = call.bias.defined() ? at::empty(call.bias.sizes(), call.bias.options()) : none;
  const std::int64_t sums = call.x.size(1) * (call.given.width + 1);
  if (sums > 0) {
    launcher.launch(
        causal_conv1d_parameters_kernel(call.x.scalar_type()),
        {.grid = {blocks_for(divide_up(sums, kWarpThreads)), 1, 1}, .block = {kRowThreads, 1, 1}},
        call.given,
        partials.const_data_ptr(),
        dweight.mutable_data_ptr(),
        call.bias.defined() ? dbias.mutable_data_ptr() : static_cast<void*>(nullptr));
  }
  return {dweight, dbias};
}

at::Tensor state_gradients(
    const Launcher& launcher,
    const ConvCall& call,
    const ConvGradientArguments& gradient) {
  if (call.given.sequences == 0) { // no slots look like none given: a sequence for each state
    return at::zeros(call.states.sizes(), call.states.options());
  }
  at::Tensor dstates = at::empty(call.states.sizes(), call.states.options());
  const std::int64_t blocks = call.state_blocks(call.given.slots);
  if (blocks > 0) {
    launcher.launch(
        causal_conv1d_state_gradients_kernel(call.x.scalar_type()),
        {.grid = {blocks_for(blocks), 1, 1}, .block = {kConvThreads, 1, 1}},
        call.given,
        gradient,
        dstates.mutable_data_ptr());
  }
  return dstates;
}

/// The gradient of final states, dense and in x's dtype or fp32.
at::Tensor dense_final_gradient(const ConvCall& call, const at::Tensor& dfinal_states) {
  call.check_device("dfinal_states", dfinal_states);
  TORCH_CHECK(
      dfinal_states.sizes() ==
          at::IntArrayRef({call.given.sequences, call.given.channels, call.given.width - 1}),
      "dfinal_states must be [B, C, K-1], got ",
      dfinal_states.sizes());
  const at::ScalarType dtype = call.x.scalar_type();
  const bool as_it_is =
      dfinal_states.scalar_type() == dtype || dfinal_states.scalar_type() == at::kFloat;
  const auto sums = dtype == at::kDouble ? at::kDouble : at::kFloat;
  return (as_it_is ? dfinal_states : dfinal_states.to(sums)).contiguous();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> causal_conv1d_backward_cuda(
    const at::Tensor& dy_TC,
    const OptionalTensor& dfinal_states,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool silu) {
  CausalConv1dGradients made = write_conv_gradients(
      dy_TC,
      dfinal_states,
      x_TC,
      weight_CK,
      bias_C,
      starts_B1,
      {initial_states, initial_slots_B},
      silu,
      at::empty(x_TC.sizes(), x_TC.options()));
  return {made.dx_TC, made.dweight_CK, made.dbias_C, made.dinitial_states};
}

at::Tensor causal_conv1d_step_cuda(
    const at::Tensor& x_BC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& states_SCK,
    const at::Tensor& slots_B,
    bool silu) {
  check_causal_conv1d(x_BC, weight_CK, bias_C, x_BC.size(0), states_SCK, slots_B);
  check_dense_slots(states_SCK);
  ConvCall call(x_BC, weight_CK, bias_C, silu);
  call.read_states(states_SCK, slots_B);
  at::Tensor y_BC = at::empty(x_BC.sizes(), x_BC.options());
  const std::int64_t widest = call.pack();
  const std::int64_t state_size = x_BC.size(1) * (call.given.width - 1);
  const at::Tensor slots_as_rows = states_SCK.as_strided(
      {states_SCK.size(0), state_size}, {states_SCK.stride(0), 1}, states_SCK.storage_offset());
  const std::int64_t pack = packs_fit(slots_as_rows, widest) ? widest : 1;
  call.given.columns = static_cast<int>(divide_up(x_BC.size(1), kConvStepThreads * pack));
  const std::int64_t blocks = x_BC.size(0) * call.given.columns;
  if (blocks > 0) {
    const Launcher launcher(x_BC);
    launcher.launch(
        causal_conv1d_step_kernel(x_BC.scalar_type(), pack, call.given.width),
        {.grid = {blocks_for(blocks), 1, 1}, .block = {kConvStepThreads, 1, 1}, .overlaps = true},
        call.given,
        states_SCK.mutable_data_ptr(),
        y_BC.mutable_data_ptr());
  }
  return y_BC;
}

} // namespace

CausalConv1dGradients write_conv_gradients(
    const at::Tensor& dy_TC,
    const OptionalTensor& dfinal_states,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu,
    const at::Tensor& dx_TC) {
  check_causal_conv1d(
      x_TC,
      weight_CK,
      bias_C,
      starts_B1.numel() - 1,
      states.initial_states,
      states.initial_slots_B);
  check_same("dy", dy_TC, "x", x_TC);
  ConvCall call(x_TC, weight_CK, bias_C, silu);
  call.read_starts(starts_B1);
  call.read_states(states.initial_states, states.initial_slots_B);
  const at::Tensor dy = near_rows(dy_TC);
  const at::Tensor dx = is_near(dx_TC) ? dx_TC : at::empty(x_TC.sizes(), x_TC.options());
  ConvGradientArguments gradient{};
  at::Tensor dfinal;
  if (dfinal_states) {
    dfinal = dense_final_gradient(call, *dfinal_states);
    gradient.dfinal_states = dfinal.const_data_ptr();
    gradient.fp32_dfinal_states = is_fp32(dfinal);
  }
  const std::int64_t widest = call.pack();
  const std::int64_t pack = packs_fit(dy, widest) && packs_fit(dx, widest) ? widest : 1;
  const Launcher launcher(x_TC);
  const ConvTuning tuning = call.tuning(launcher);
  call.cut(pack, tuning.gradient_warps, tuning.gradient_longest_run);
  const auto sums = x_TC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor partials =
      at::empty({call.given.tiles, call.given.width + 1, x_TC.size(1)}, x_TC.options().dtype(sums));
  gradient.dy = dy.const_data_ptr();
  gradient.dy_stride = row_stride(dy);
  gradient.dx = dx.mutable_data_ptr();
  gradient.dx_stride = row_stride(dx);
  gradient.partials = partials.mutable_data_ptr();
  if (call.token_blocks() > 0) {
    launcher.launch(
        causal_conv1d_backward_kernel(x_TC.scalar_type(), pack, call.given.width, silu),
        {.grid = {blocks_for(call.token_blocks()), 1, 1}, .block = {kConvThreads, 1, 1}},
        call.given,
        gradient);
  }
  if (!dx.is_same(dx_TC)) {
    dx_TC.copy_(dx);
  }
  const at::Tensor none = at::empty({0}, x_TC.options());
  const auto [dweight, dbias] = parameter_gradients(launcher, call, partials, none);
  return {
      dx_TC,
      dweight,
      dbias,
      states.initial_states ? state_gradients(launcher, call, gradient) : none};
}

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("causal_conv1d", &causal_conv1d_cuda);
  library.impl("causal_conv1d_backward", &causal_conv1d_backward_cuda);
  library.impl("causal_conv1d_step_", &causal_conv1d_step_cuda);
}

} // namespace baton::ops::cuda
