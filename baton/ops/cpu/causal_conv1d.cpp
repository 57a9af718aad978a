// SPDX-License-Identifier: Apache-2.0
// CPU kernels of causal_conv1d: work items are blocks of tokens.
#include "baton/ops/causal_conv1d.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/base/layout.h"
#include "baton/ops/cpu/block_sums.h"
#include "baton/ops/cpu/causal_conv1d_block.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/slots.h"

namespace baton::ops {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// Long enough that the halo of a block is small beside it, short enough that its rows stay in
// cache.
constexpr std::int64_t kTokensPerBlock = 32;

struct BlockRange {
  std::int64_t sequence;
  std::int64_t begin;
  std::int64_t end;
};

std::vector<BlockRange> cut_in_blocks(const std::vector<std::int64_t>& starts) {
  std::vector<BlockRange> blocks;
  for (std::size_t b = 0; b + 1 < starts.size(); ++b) {
    const std::int64_t length = starts[b + 1] - starts[b];
    std::int64_t begin = 0;
    do { // an empty sequence has one empty block, for the gradient of its state
      const std::int64_t end = std::min(begin + kTokensPerBlock, length);
      blocks.push_back({static_cast<std::int64_t>(b), begin, end});
      begin = end;
    } while (begin < length);
  }
  return blocks;
}

/// What forward and backward share: parameters in the type of sums, histories, sequence bounds.
class ConvCall {
 public:
  ConvCall(
      const at::Tensor& x_TC,
      const at::Tensor& weight_CK,
      const OptionalTensor& bias_C,
      const at::Tensor& starts_B1,
      const OptionalTensor& initial_states,
      const OptionalTensor& initial_slots_B,
      bool silu)
      : starts(checked_starts(starts_B1, x_TC.size(0))),
        x(as_rows(x_TC)),
        sums(x_TC.options().dtype(x_TC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat)),
        weight_KC(weight_CK.t().to(sums.dtype()).contiguous()),
        bias(bias_C ? bias_C->to(sums.dtype()).contiguous() : at::zeros({x_TC.size(1)}, sums)),
        width(weight_CK.size(1)),
        silu_(silu) {
    zeros_ = at::zeros({x_TC.size(1)}, x_TC.options());
    if (initial_states) {
      slots = slots_of(initial_states->size(0), initial_slots_B);
      initial_BCK = gather(*initial_states);
      history_BKC = initial_BCK.transpose(1, 2).to(x.dtype()).contiguous();
    }
  }

  std::int64_t num_sequences() const { return static_cast<std::int64_t>(starts.size()) - 1; }
  std::int64_t length(std::int64_t b) const { return start(b + 1) - start(b); }
  std::int64_t start(std::int64_t b) const { return starts[static_cast<std::size_t>(b)]; }

  ConvBlock block(const BlockRange& range, const at::Tensor& out_TC) const {
    const std::int64_t channels = x.size(1);
    const std::int64_t first = start(range.sequence);
    ConvBlock result{};
    result.dtype = x.scalar_type();
    result.channels = channels;
    result.width = width;
    result.silu = silu_;
    result.weight_KC = weight_KC.const_data_ptr();
    result.bias_C = bias.const_data_ptr();
    result.x = offset(x, first * x.stride(0));
    result.x_stride = x.stride(0);
    result.history = zeros_.const_data_ptr();
    if (history_BKC.defined()) {
      result.history = offset(history_BKC, range.sequence * (width - 1) * channels);
      result.history_stride = channels;
    }
    result.length = length(range.sequence);
    result.begin = range.begin;
    result.end = range.end;
    result.out = offset(out_TC, first * channels);
    return result;
  }

  static void* offset(const at::Tensor& tensor, std::int64_t values) {
    return static_cast<char*>(tensor.data_ptr()) +
           values * static_cast<std::int64_t>(tensor.element_size());
  }

  /// The last K-1 inputs of every sequence, [B, C, K-1].
  at::Tensor final_states(at::ScalarType dtype) const {
    at::Tensor states =
        at::zeros({num_sequences(), x.size(1), width - 1}, x.options().dtype(dtype));
    for (std::int64_t b = 0; b < num_sequences(); ++b) {
      const std::int64_t fresh = std::min(length(b), width - 1);
      const std::int64_t old = width - 1 - fresh;
      if (fresh > 0) {
        states[b].narrow(1, old, fresh).copy_(x.narrow(0, start(b + 1) - fresh, fresh).t());
      }
      if (old > 0 && initial_BCK.defined()) {
        states[b].narrow(1, 0, old).copy_(initial_BCK[b].narrow(1, fresh, old));
      }
    }
    return states;
  }

  std::vector<std::int64_t> starts;
  std::vector<std::int64_t> slots; ///< of every sequence, -1 none; empty without states
  at::Tensor x;
  at::TensorOptions sums;
  at::Tensor weight_KC;
  at::Tensor bias;
  std::int64_t width;
  at::Tensor initial_BCK; ///< as given; undefined without states
  at::Tensor history_BKC; ///< the same in the type and order of x

 private:
  std::vector<std::int64_t> slots_of(std::int64_t num_slots, const OptionalTensor& given) const {
    const std::vector<std::int32_t> found =
        checked_slots(given ? *given : at::arange(num_sequences(), at::kInt), num_slots);
    return {found.begin(), found.end()};
  }

  at::Tensor gather(const at::Tensor& states) const {
    const at::Tensor index = at::tensor(slots, at::kLong);
    if (num_sequences() == 0 || states.size(0) == 0) {
      return at::zeros({num_sequences(), x.size(1), width - 1}, states.options());
    }
    const at::Tensor taken = states.index_select(0, index.clamp_min(0));
    return taken.masked_fill(index.lt(0).view({-1, 1, 1}), 0.0);
  }

  bool silu_;
  at::Tensor zeros_;
};

std::tuple<at::Tensor, at::Tensor> causal_conv1d_cpu(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool silu) {
  check_causal_conv1d(
      x_TC, weight_CK, bias_C, starts_B1.numel() - 1, initial_states, initial_slots_B);
  const ConvCall call(x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
  at::Tensor y_TC = at::empty(x_TC.sizes(), x_TC.options());
  const std::vector<BlockRange> blocks = cut_in_blocks(call.starts);
  const auto count = static_cast<std::int64_t>(blocks.size());
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      convolve_block(call.block(blocks[static_cast<std::size_t>(i)], y_TC));
    }
  });
  const auto state_dtype = initial_states ? initial_states->scalar_type() : x_TC.scalar_type();
  return {y_TC, call.final_states(state_dtype)};
}

/// Sums the gradients of histories over the sequences that share a slot.
at::Tensor scatter_to_slots(
    const at::Tensor& dhistory_BKC,
    const std::vector<std::int64_t>& slots,
    const at::Tensor& states) {
  at::Tensor dstates = at::zeros(states.sizes(), dhistory_BKC.options());
  for (std::size_t b = 0; b < slots.size(); ++b) {
    if (slots[b] >= 0) {
      dstates[slots[b]].add_(dhistory_BKC[static_cast<std::int64_t>(b)].t());
    }
  }
  return dstates.to(states.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> causal_conv1d_backward_cpu(
    const at::Tensor& dy_TC,
    const OptionalTensor& dfinal_states,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& starts_B1,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots_B,
    bool silu) {
  check_causal_conv1d(
      x_TC, weight_CK, bias_C, starts_B1.numel() - 1, initial_states, initial_slots_B);
  check_same("dy", dy_TC, "x", x_TC);
  const ConvCall call(x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
  const std::int64_t channels = x_TC.size(1);
  const std::int64_t width = call.width;
  const at::Tensor dy = as_rows(dy_TC);
  at::Tensor dx_TC = at::empty(x_TC.sizes(), x_TC.options());
  at::Tensor dfinal_BKC;
  if (dfinal_states) {
    TORCH_CHECK(
        dfinal_states->sizes() == at::IntArrayRef({call.num_sequences(), channels, width - 1}),
        "dfinal_states must be [B, C, K-1], got ",
        dfinal_states->sizes());
    dfinal_BKC = dfinal_states->transpose(1, 2).to(call.sums.dtype()).contiguous();
  }
  at::Tensor dhistory_BKC;
  if (initial_states) {
    dhistory_BKC = at::zeros({call.num_sequences(), width - 1, channels}, call.sums);
  }
  const std::vector<BlockRange> blocks = cut_in_blocks(call.starts);
  const auto count = static_cast<std::int64_t>(blocks.size());
  const at::Tensor partials = at::zeros({count, width + 1, channels}, call.sums);
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scratch = at::empty({kTokensPerBlock + width - 1, channels}, call.sums);
    for (std::int64_t i = begin; i < end; ++i) {
      const BlockRange& range = blocks[static_cast<std::size_t>(i)];
      const std::int64_t state_offset = range.sequence * (width - 1) * channels;
      ConvBlock block = call.block(range, dx_TC);
      block.dy = ConvCall::offset(dy, call.start(range.sequence) * dy.stride(0));
      block.dy_stride = dy.stride(0);
      block.dfinal_KC = dfinal_BKC.defined() ? ConvCall::offset(dfinal_BKC, state_offset) : nullptr;
      block.dhistory_KC =
          dhistory_BKC.defined() ? ConvCall::offset(dhistory_BKC, state_offset) : nullptr;
      block.dparameters_KC = ConvCall::offset(partials, i * (width + 1) * channels);
      block.scratch = scratch.data_ptr();
      convolve_block_backward(block);
    }
  });
  const at::Tensor sums = sum_over_blocks(partials);
  const at::Tensor none = at::empty({0}, x_TC.options());
  return {
      dx_TC,
      sums.narrow(0, 0, width).t().to(weight_CK.scalar_type()).contiguous(),
      bias_C ? sums.select(0, width).to(bias_C->scalar_type(), false, true) : none,
      initial_states ? scatter_to_slots(dhistory_BKC, call.slots, *initial_states) : none};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("causal_conv1d", causal_conv1d_cpu);
  library.impl("causal_conv1d_backward", causal_conv1d_backward_cpu);
}

} // namespace baton::ops
