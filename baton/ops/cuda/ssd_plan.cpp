// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/ssd_plan.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>

#include "baton/ops/cuda/packs.h"

namespace baton::ops::cuda {
namespace {

constexpr std::int64_t kWantedBlocks = 256; // where sequences are cut
constexpr std::int64_t kShortTokens = 256;  // of sequences, on the average, that are joined
constexpr std::int64_t kFewestTokens = 512; // of a segment: fewer cost more than they gain
constexpr std::int64_t kMostInt = std::numeric_limits<std::int32_t>::max();

at::Tensor with_dense_rows(const at::Tensor& tensor) {
  const bool dense = (tensor.size(2) == 1 || tensor.stride(2) == 1) &&
                     (tensor.size(1) == 1 || tensor.stride(1) == tensor.size(2));
  return dense ? tensor : tensor.contiguous();
}

at::Tensor as_fp32(const at::Tensor& tensor) {
  return tensor.to(at::kFloat).contiguous();
}

std::int64_t
tokens_of_segment(const SsdSizes& sizes, std::int64_t tiles, std::int64_t enough_blocks) {
  const std::int64_t whole = sizes.T + 1;
  const std::int64_t blocks = sizes.H * tiles;
  if (sizes.B == 0 || sizes.B * blocks >= enough_blocks) {
    return whole;
  }
  const std::int64_t tokens = std::max(sizes.T * blocks / kWantedBlocks, kFewestTokens);
  const std::int64_t rounded = (tokens + kSsdChunk - 1) / kSsdChunk * kSsdChunk;
  return rounded < sizes.T ? rounded : whole;
}

} // namespace

SsdTokens::SsdTokens(const at::Tensor& tensor)
    : owner(with_dense_rows(tensor)),
      rows{
          owner.const_data_ptr(),
          owner.size(0) <= 1 ? 0 : owner.stride(0),
          packs_fit(owner, widest_pack(owner.scalar_type()))} {}

SsdSource::SsdSource(const at::Tensor& tensor, const std::optional<at::Tensor>& slots)
    : owner(
          tensor.size(0) == 0 || tensor.select(0, 0).is_contiguous() ? tensor
                                                                     : tensor.contiguous()),
      slots_owner(slots.has_value() ? slots->contiguous() : at::Tensor()),
      states{
          owner.const_data_ptr<float>(),
          slots.has_value() ? slots_owner.const_data_ptr<std::int32_t>() : nullptr,
          owner.stride(0),
          static_cast<int>(owner.size(0)),
          packs_fit(owner, widest_pack(at::kFloat))} {}

bool are_short(const SsdSizes& sizes) {
  return sizes.B > 1 && sizes.T > 0 && sizes.T < sizes.B * kShortTokens;
}

SsdStream join_short_sequences(
    const Launcher& launcher,
    const at::Tensor& starts,
    const SsdSizes& sizes,
    bool states_asked) {
  if (states_asked || !are_short(sizes) || starts.scalar_type() != at::kInt) {
    return {sizes, starts, {}};
  }
  SsdStream joined{sizes, at::empty({2}, starts.options()), {}};
  joined.sizes.B = 1;
  const std::int64_t words = (sizes.T + 63) / 64;
  joined.marks = at::empty({words}, starts.options().dtype(at::kLong));
  const SsdKernel kernel = ssd_mark_starts_kernel();
  launcher.launch(
      kernel.spec,
      {.grid = {static_cast<unsigned>((words + kernel.threads - 1) / kernel.threads), 1, 1},
       .block = {kernel.threads, 1, 1}},
      starts.contiguous().const_data_ptr<std::int32_t>(),
      static_cast<int>(sizes.B),
      static_cast<long long>(words),
      joined.starts.mutable_data_ptr<std::int32_t>(),
      joined.marks.mutable_data_ptr<std::int64_t>());
  return joined;
}

SsdTime::SsdTime(
    const at::Tensor& dt_TH,
    const at::Tensor& A,
    const SsdTimeStep& time_step,
    const at::Tensor& marks_of_tokens)
    : dt(dt_TH.scalar_type() == at::kFloat || dt_TH.scalar_type() == at::kBFloat16
             ? dt_TH
             : dt_TH.to(at::kFloat)),
      A_H(as_fp32(A)),
      bias_H(time_step.bias_H.has_value() ? as_fp32(*time_step.bias_H) : at::Tensor()),
      marks(marks_of_tokens),
      inputs{
          dt.const_data_ptr(),
          dt.stride(0),
          dt.stride(1),
          A_H.const_data_ptr<float>(),
          bias_H.defined() ? bias_H.const_data_ptr<float>() : nullptr,
          static_cast<float>(time_step.min),
          static_cast<float>(time_step.max),
          dt.scalar_type() == at::kFloat,
          time_step.softplus,
          marks.defined() ? static_cast<const unsigned long long*>(marks.const_data_ptr())
                          : nullptr} {}

SsdSkip::SsdSkip(const std::optional<at::Tensor>& D) {
  if (D.has_value()) {
    owner = as_fp32(*D);
    const bool per_channel = owner.dim() == 2;
    inputs = {owner.const_data_ptr<float>(), owner.stride(0), per_channel ? 1 : 0};
  }
}

SsdPlan::SsdPlan(
    const at::Tensor& values_THP,
    const at::Tensor& starts_B1,
    const SsdSizes& all,
    std::int64_t enough_blocks)
    : sizes(all),
      dtype(values_THP.scalar_type()),
      state_options(values_THP.options().dtype(at::kFloat)),
      starts(starts_B1.contiguous()),
      tile(ssd_tile(all.P, all.N)),
      tiles((all.P + tile.channels - 1) / tile.channels),
      segment_tokens(tokens_of_segment(all, tiles, enough_blocks)) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      dtype == at::kFloat || dtype == at::kBFloat16,
      "the scan on a GPU takes fp32 or bf16, not ",
      dtype);
  TORCH_CHECK(
      starts.scalar_type() == at::kInt && starts.dim() == 1 && sizes.B >= 0,
      "starts must be int32 [B + 1], not ",
      starts.scalar_type(),
      " ",
      starts.sizes());
  TORCH_CHECK(
      sizes.T <= kMostInt && sizes.H * sizes.P * kSsdChunk <= kMostInt &&
          sizes.P * sizes.N <= kMostInt,
      "the scan on a GPU takes fewer than 2^31 tokens, and 2^31 values in 64 tokens: T ",
      sizes.T,
      ", H ",
      sizes.H,
      ", P ",
      sizes.P);
  check_device("starts", starts, values_THP);
}

SsdLayout SsdPlan::layout() const {
  return {
      starts.const_data_ptr<std::int32_t>(),
      segment_tokens,
      static_cast<int>(sizes.B),
      static_cast<int>(sizes.H),
      static_cast<int>(sizes.P),
      static_cast<int>(sizes.G),
      static_cast<int>(sizes.N)};
}

unsigned SsdPlan::blocks() const {
  const std::int64_t blocks = segments() * sizes.H * tiles;
  TORCH_CHECK(blocks <= kMostInt, "the scan on a GPU takes 2^31 - 1 heads of sequences: ", blocks);
  return static_cast<unsigned>(blocks);
}

void check_device(
    const char* name,
    const std::optional<at::Tensor>& tensor,
    const at::Tensor& like) {
  TORCH_CHECK(
      !tensor.has_value() || tensor->device() == like.device(),
      name,
      " must be on ",
      like.device(),
      ", not ",
      tensor.has_value() ? tensor->device() : like.device());
}

void check_devices(const SsdInputs& in, const SsdStart& start) {
  check_device("dt", in.dt_TH, in.x_THP);
  check_device("A", in.A_H, in.x_THP);
  check_device("B", in.B_TGN, in.x_THP);
  check_device("C", in.C_TGN, in.x_THP);
  check_device("D", in.D, in.x_THP);
  check_device("dt_bias", in.time_step.bias_H, in.x_THP);
  check_device("initial_states", start.states_SHPN, in.x_THP);
  check_device("initial_slots", start.slots_B, in.x_THP);
}

} // namespace baton::ops::cuda
