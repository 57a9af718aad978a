// SPDX-License-Identifier: Apache-2.0
// CPU kernels of causal_conv1d: vectors run over channels, work items are blocks of tokens.
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
#include "baton/ops/cpu/highway_targets.h"
#include "baton/ops/row_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/causal_conv1d.cpp"
#include <hwy/foreach_target.h>

// Must come after foreach_target.h.
#include "baton/ops/cpu/vector_rows-inl.h"

#ifndef BATON_OPS_CPU_CAUSAL_CONV1D_ONCE
#define BATON_OPS_CPU_CAUSAL_CONV1D_ONCE
namespace baton::ops {

/// Tokens [begin, end) of one sequence. Pointers are to the sequence's first row; strides count
/// values. Sums (weight, bias, gradients of parameters and states) are fp32, or fp64 for fp64.
struct ConvBlock {
  c10::ScalarType dtype;
  std::int64_t channels;
  std::int64_t width; ///< K
  bool silu;
  const void* weight_KC;
  const void* bias_C;
  const void* x;
  std::int64_t x_stride;
  const void* history; ///< K-1 rows before the first token
  std::int64_t history_stride; ///< 0: all of them are one row of zeros
  std::int64_t length;
  std::int64_t begin;
  std::int64_t end;
  void* out; ///< y, or dx; dense rows
  // Backward only.
  const void* dy;
  std::int64_t dy_stride;
  const void* dfinal_KC; ///< gradient of the final state, K-1 rows; may be null
  void* dhistory_KC;     ///< gradient of the history, K-1 rows; null when nobody asks
  void* dparameters_KC;  ///< K rows for the weight, one for the bias; added to
  void* scratch;         ///< end - begin + K - 1 rows
};

} // namespace baton::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace vec = baton::ops::rows::HWY_NAMESPACE;

constexpr std::int64_t kMaxWidth = 8;

/// Input row `t` of the sequence; negative rows are its history.
template <class T>
const T* input_row(const ConvBlock& block, std::int64_t t) {
  return t >= 0 ? static_cast<const T*>(block.x) + t * block.x_stride
                : static_cast<const T*>(block.history) +
                      (t + block.width - 1) * block.history_stride;
}

/// The K rows that output `t` sees, oldest first.
template <class T>
struct Taps {
  Taps(const ConvBlock& block, std::int64_t t) {
    for (std::int64_t k = 0; k < block.width; ++k) {
      rows[k] = input_row<T>(block, t - block.width + 1 + k);
    }
  }
  const T* rows[kMaxWidth];
};

template <class T, class D>
HWY_INLINE hn::Vec<D> before_activation(
    const ConvBlock& block,
    const Taps<T>& taps,
    D d,
    std::int64_t i) {
  using S = hn::TFromD<D>;
  const S* weight = static_cast<const S*>(block.weight_KC) + i;
  auto sum = hn::LoadU(d, static_cast<const S*>(block.bias_C) + i);
  for (std::int64_t k = 0; k < block.width; ++k) {
    sum = hn::MulAdd(
        hn::LoadU(d, weight + k * block.channels), vec::load(d, taps.rows[k] + i), sum);
  }
  return sum;
}

template <class T>
void forward_block(const ConvBlock& block) {
  for (std::int64_t t = block.begin; t < block.end; ++t) {
    const Taps<T> taps(block, t);
    T* y = static_cast<T*>(block.out) + t * block.channels;
    vec::for_vectors<vec::Sum<T>>(block.channels, [&](auto d, auto i) HWY_ATTR {
      const auto sum = before_activation(block, taps, d, i);
      vec::store(d, block.silu ? vec::silu(d, sum) : sum, y + i);
    });
  }
}

/// Gradient before the activation of output `t` into `dz`; adds to the parameters' gradients when
/// the token belongs to this block and not to the halo behind it.
template <class T>
void activation_gradient(const ConvBlock& block, std::int64_t t, vec::Sum<T>* dz) {
  using S = vec::Sum<T>;
  const Taps<T> taps(block, t);
  const T* dy = static_cast<const T*>(block.dy) + t * block.dy_stride;
  S* dparameters = static_cast<S*>(block.dparameters_KC);
  const bool own = t < block.end;
  vec::for_vectors<S>(block.channels, [&](auto d, auto i) HWY_ATTR {
    auto gradient = vec::load(d, dy + i);
    if (block.silu) {
      const auto sum = before_activation(block, taps, d, i);
      gradient = hn::Mul(gradient, vec::silu_slope(d, sum, vec::sigmoid(d, sum)));
    }
    hn::StoreU(gradient, d, dz + i);
    if (own) {
      for (std::int64_t k = 0; k < block.width; ++k) {
        S* dweight = dparameters + k * block.channels + i;
        const auto input = vec::load(d, taps.rows[k] + i);
        hn::StoreU(hn::MulAdd(gradient, input, hn::LoadU(d, dweight)), d, dweight);
      }
      S* dbias = dparameters + block.width * block.channels + i;
      hn::StoreU(hn::Add(gradient, hn::LoadU(d, dbias)), d, dbias);
    }
  });
}

/// Gradient of input row `t`: from the outputs that see it, and from the final state.
template <class S, class Out>
void input_gradient(const ConvBlock& block, std::int64_t t, Out* out) {
  const std::int64_t channels = block.channels;
  const S* dz = static_cast<const S*>(block.scratch);
  const std::int64_t column = t - block.length + block.width - 1;
  const S* dfinal = block.dfinal_KC != nullptr && column >= 0
                        ? static_cast<const S*>(block.dfinal_KC) + column * channels
                        : nullptr;
  const std::int64_t first_tap = std::max<std::int64_t>(0, t + block.width - block.length);
  const std::int64_t last_tap = std::min(block.width - 1, t + block.width - 1);
  vec::for_vectors<S>(channels, [&](auto d, auto i) HWY_ATTR {
    auto sum = dfinal != nullptr ? hn::LoadU(d, dfinal + i) : hn::Zero(d);
    for (std::int64_t k = first_tap; k <= last_tap; ++k) {
      const std::int64_t row = t + block.width - 1 - k - block.begin;
      const auto weight =
          hn::LoadU(d, static_cast<const S*>(block.weight_KC) + k * channels + i);
      sum = hn::MulAdd(weight, hn::LoadU(d, dz + row * channels + i), sum);
    }
    vec::store(d, sum, out + i);
  });
}

template <class T>
void backward_block(const ConvBlock& block) {
  using S = vec::Sum<T>;
  S* dz = static_cast<S*>(block.scratch);
  const std::int64_t halo_end = std::min(block.end + block.width - 1, block.length);
  for (std::int64_t t = block.begin; t < halo_end; ++t) {
    activation_gradient<T>(block, t, dz + (t - block.begin) * block.channels);
  }
  for (std::int64_t t = block.begin; t < block.end; ++t) {
    input_gradient<S>(block, t, static_cast<T*>(block.out) + t * block.channels);
  }
  if (block.begin == 0 && block.dhistory_KC != nullptr) {
    for (std::int64_t column = 0; column < block.width - 1; ++column) {
      input_gradient<S>(
          block,
          column - block.width + 1,
          static_cast<S*>(block.dhistory_KC) + column * block.channels);
    }
  }
}

void conv_forward(const ConvBlock& block) {
  vec::with_type(block.dtype, [&](auto type) { forward_block<decltype(type)>(block); });
}

void conv_backward(const ConvBlock& block) {
  vec::with_type(block.dtype, [&](auto type) { backward_block<decltype(type)>(block); });
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops {
namespace {

HWY_EXPORT(conv_forward);
HWY_EXPORT(conv_backward);

using OptionalTensor = std::optional<at::Tensor>;

// Long enough that the halo of a block is small beside it, short enough that its rows stay in cache.
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
      history_BKC = gather(*initial_states).transpose(1, 2).to(x.dtype()).contiguous();
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
    at::Tensor states = at::zeros({num_sequences(), x.size(1), width - 1}, x.options().dtype(dtype));
    for (std::int64_t b = 0; b < num_sequences(); ++b) {
      const std::int64_t fresh = std::min(length(b), width - 1);
      const std::int64_t old = width - 1 - fresh;
      if (fresh > 0) {
        states[b].narrow(1, old, fresh).copy_(x.narrow(0, start(b + 1) - fresh, fresh).t());
      }
      if (old > 0 && history_BKC.defined()) {
        states[b].narrow(1, 0, old).copy_(history_BKC[b].narrow(0, fresh, old).t());
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
  at::Tensor history_BKC; ///< undefined without states

 private:
  std::vector<std::int64_t> slots_of(std::int64_t num_slots, const OptionalTensor& given) const {
    std::vector<std::int64_t> result;
    const at::Tensor values = given ? given->to(at::kLong) : at::arange(num_sequences(), at::kLong);
    TORCH_CHECK(
        values.size(0) == num_sequences(),
        "there must be one initial slot a sequence: ",
        values.size(0),
        " vs ",
        num_sequences());
    for (std::int64_t b = 0; b < num_sequences(); ++b) {
      const auto slot = values[b].item<std::int64_t>();
      TORCH_CHECK(
          slot >= -1 && slot < num_slots, "slot ", slot, " is outside the states of ", num_slots);
      result.push_back(slot);
    }
    return result;
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
  check_causal_conv1d(x_TC, weight_CK, bias_C, initial_states, initial_slots_B);
  const ConvCall call(x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
  at::Tensor y_TC = at::empty(x_TC.sizes(), x_TC.options());
  const std::vector<BlockRange> blocks = cut_in_blocks(call.starts);
  const auto count = static_cast<std::int64_t>(blocks.size());
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(conv_forward)(call.block(blocks[static_cast<std::size_t>(i)], y_TC));
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
  check_causal_conv1d(x_TC, weight_CK, bias_C, initial_states, initial_slots_B);
  check_same("dy", dy_TC, "x", x_TC);
  const ConvCall call(x_TC, weight_CK, bias_C, starts_B1, initial_states, initial_slots_B, silu);
  const std::int64_t channels = x_TC.size(1);
  const std::int64_t width = call.width;
  const at::Tensor dy = as_rows(dy_TC);
  at::Tensor dx_TC = at::empty(x_TC.sizes(), x_TC.options());
  at::Tensor dfinal_BKC;
  if (dfinal_states) {
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
      HWY_DYNAMIC_DISPATCH(conv_backward)(block);
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

at::Tensor causal_conv1d_step_cpu(
    const at::Tensor& x_BC,
    const at::Tensor& weight_CK,
    const OptionalTensor& bias_C,
    const at::Tensor& states_SCK,
    const at::Tensor& slots_B,
    bool silu) {
  check_causal_conv1d(x_BC, weight_CK, bias_C, states_SCK, slots_B);
  const at::Tensor starts = at::arange(x_BC.size(0) + 1, at::kInt);
  const ConvCall call(x_BC, weight_CK, bias_C, starts, states_SCK, slots_B, silu);
  at::Tensor y_BC = at::empty(x_BC.sizes(), x_BC.options());
  at::parallel_for(0, x_BC.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      HWY_DYNAMIC_DISPATCH(conv_forward)(call.block({b, 0, 1}, y_BC));
    }
  });
  const at::Tensor advanced = call.final_states(states_SCK.scalar_type());
  for (std::int64_t b = 0; b < x_BC.size(0); ++b) {
    const std::int64_t slot = call.slots[static_cast<std::size_t>(b)];
    if (slot >= 0) {
      states_SCK.select(0, slot).copy_(advanced.select(0, b));
    }
  }
  return y_BC;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("causal_conv1d", causal_conv1d_cpu);
  library.impl("causal_conv1d_backward", causal_conv1d_backward_cpu);
  library.impl("causal_conv1d_step_", causal_conv1d_step_cpu);
}

} // namespace baton::ops
#endif
