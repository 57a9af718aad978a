// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/causal_conv1d.h"

#include "baton/base/layout.h"
#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

using Lengths = std::vector<std::int64_t>;

/// The block of tokens that the CPU kernel computes at once; lengths around it are tested.
constexpr std::int64_t kBlock = 32;

at::Tensor starts_of(const Lengths& lengths) {
  return make_layout_from_lengths(lengths).starts_B1;
}

std::int64_t total(const Lengths& lengths) {
  std::int64_t sum = 0;
  for (const std::int64_t length : lengths) {
    sum += length;
  }
  return sum;
}

/// The definition, sequence by sequence: K shifted products over the state followed by the inputs.
CausalConv1dOutput judge_conv(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const Lengths& lengths,
    const std::optional<at::Tensor>& states_SCK,
    const std::vector<int>& slots,
    bool silu) {
  const std::int64_t channels = x_TC.size(1);
  const std::int64_t width = weight_CK.size(1);
  std::vector<at::Tensor> outputs{x_TC.narrow(0, 0, 0)};
  std::vector<at::Tensor> finals{at::zeros({0, channels, width - 1}, at::kDouble)};
  std::int64_t first = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    const at::Tensor before = states_SCK && slots[b] >= 0
                                  ? (*states_SCK)[slots[b]].t()
                                  : at::zeros({width - 1, channels}, at::kDouble);
    const at::Tensor rows = at::cat({before, x_TC.narrow(0, first, lengths[b])});
    at::Tensor sum = at::zeros({lengths[b], channels}, at::kDouble);
    for (std::int64_t k = 0; k < width; ++k) {
      sum = sum + rows.narrow(0, k, lengths[b]) * weight_CK.select(1, k);
    }
    sum = bias_C ? sum + *bias_C : sum;
    outputs.push_back(silu ? sum / (1.0 + at::exp(-sum)) : sum);
    finals.push_back(rows.narrow(0, rows.size(0) - width + 1, width - 1).t().unsqueeze(0));
    first += lengths[b];
  }
  return {at::cat(outputs), at::cat(finals)};
}

/// The judge's gradient; nothing depended on the leaf where there is none.
at::Tensor gradient_of(const at::Tensor& leaf) {
  return leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
}

struct Case {
  Lengths lengths;
  std::int64_t channels = 5;
  std::int64_t width = 4;
  at::ScalarType dtype = at::kDouble;
  std::optional<at::ScalarType> state_dtype = {}; ///< absent: no initial states
  std::vector<int> slots = {};                    ///< empty: state b for sequence b
  bool bias = true;
  bool silu = true;

  std::string name() const {
    std::string text = "K " + std::to_string(width) + ", lengths";
    for (const std::int64_t length : lengths) {
      text += " " + std::to_string(length);
    }
    return text;
  }
};

/// A scalar that depends on both results, so that one backward pass tests both ways.
at::Tensor
weighted_sum(const CausalConv1dOutput& out, const at::Tensor& dy, const at::Tensor& dfinal) {
  const auto wide = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
  return (wide(out.y_TC) * wide(dy)).sum() + (wide(out.final_states_BCK) * wide(dfinal)).sum();
}

void expect_like_judge(const Case& test) {
  const auto num_sequences = static_cast<std::int64_t>(test.lengths.size());
  const std::int64_t num_states = test.slots.empty() ? num_sequences : 3;
  const at::Tensor x = random_leaf({total(test.lengths), test.channels}, test.dtype);
  const at::Tensor weight = random_leaf({test.channels, test.width}, test.dtype);
  std::vector<std::optional<at::Tensor>> optional(2);
  if (test.bias) {
    optional[0] = random_leaf({test.channels}, test.dtype);
  }
  CausalConv1dStates states;
  if (test.state_dtype) {
    // A state holds inputs, so its values are those of x's dtype whatever it is stored in.
    optional[1] = random_leaf({num_states, test.channels, test.width - 1}, test.dtype)
                      .detach()
                      .to(*test.state_dtype)
                      .requires_grad_();
    states.initial_states = optional[1];
  }
  std::vector<int> slots = test.slots;
  if (slots.empty()) {
    for (int b = 0; b < num_sequences; ++b) {
      slots.push_back(b);
    }
  } else {
    states.initial_slots_B = at::tensor(slots, at::kInt);
  }
  const CausalConv1dOutput found =
      causal_conv1d(x, weight, optional[0], starts_of(test.lengths), states, test.silu);
  std::vector<std::optional<at::Tensor>> judges(2);
  for (std::size_t i = 0; i < 2; ++i) {
    judges[i] = optional[i] ? std::make_optional(judge_leaf(*optional[i])) : std::nullopt;
  }
  const at::Tensor judge_x = judge_leaf(x);
  const at::Tensor judge_weight = judge_leaf(weight);
  const CausalConv1dOutput expected =
      judge_conv(judge_x, judge_weight, judges[0], test.lengths, judges[1], slots, test.silu);
  expect_close(found.y_TC, expected.y_TC, test.name() + " y");
  EXPECT_TRUE(at::equal(found.final_states_BCK.to(at::kDouble), expected.final_states_BCK))
      << test.name() << ": a state is a copy of inputs, so it is exact";
  EXPECT_EQ(found.final_states_BCK.scalar_type(), test.state_dtype.value_or(test.dtype));
  const at::Tensor dy = at::randn(found.y_TC.sizes(), at::kDouble).to(test.dtype);
  const at::Tensor dfinal = at::randn(found.final_states_BCK.sizes(), at::kDouble)
                                .to(found.final_states_BCK.scalar_type());
  weighted_sum(found, dy, dfinal).backward();
  weighted_sum(expected, dy, dfinal).backward();
  expect_close(x.grad(), gradient_of(judge_x), test.name() + " dx");
  expect_close(weight.grad(), gradient_of(judge_weight), test.name() + " dweight");
  const char* names[] = {" dbias", " dstates"};
  for (std::size_t i = 0; i < 2; ++i) {
    if (optional[i]) {
      expect_close(optional[i]->grad(), gradient_of(*judges[i]), test.name() + names[i]);
    }
  }
}

TEST(CausalConv1d, FollowsTheFormulaAtAllLengthsAndWidths) {
  for (const at::ScalarType dtype : kActivationTypes) {
    for (std::int64_t width = 1; width <= 8; ++width) {
      for (const std::int64_t length :
           {std::int64_t{0}, std::int64_t{1}, std::int64_t{2}, kBlock - 1, kBlock, kBlock + 1}) {
        expect_like_judge(
            {.lengths = {length}, .width = width, .dtype = dtype, .state_dtype = dtype});
      }
    }
    expect_like_judge({.lengths = {300}, .channels = 67, .dtype = dtype});
  }
}

TEST(CausalConv1d, KeepsSequencesApart) {
  const Lengths lengths{3, 0, 70, 1, 2, 0, 33};
  for (const at::ScalarType dtype : kActivationTypes) {
    for (const bool silu : {true, false}) {
      for (const bool bias : {true, false}) {
        Case test{.lengths = lengths, .channels = 19, .dtype = dtype, .bias = bias, .silu = silu};
        expect_like_judge(test);
        test.state_dtype = dtype;
        expect_like_judge(test);
        test.slots = {2, 0, -1, 2, 1, -1, 2};
        expect_like_judge(test);
      }
    }
  }
  expect_like_judge({.lengths = {}});
}

TEST(CausalConv1d, KeepsFp32StatesBesideBf16) {
  expect_like_judge(
      {.lengths = {1, 0, 40},
       .dtype = at::kBFloat16,
       .state_dtype = at::kFloat,
       .slots = {1, 2, 0}});
}

TEST(CausalConv1d, ReadsSlicesOfWiderRows) {
  const at::Tensor x = at::randn({50, 9});
  const at::Tensor weight = at::randn({9, 4});
  const at::Tensor starts = starts_of({50});
  EXPECT_TRUE(at::equal(
      causal_conv1d(with_row_gap(x, 5), weight, std::nullopt, starts, {}, true).y_TC,
      causal_conv1d(x, weight, std::nullopt, starts, {}, true).y_TC));
}

TEST(CausalConv1d, OfPartsWithTheStateCarriedIsTheWhole) {
  const at::Tensor x = at::randn({90, 7});
  const at::Tensor weight = at::randn({7, 4});
  const at::Tensor bias = at::randn({7});
  const CausalConv1dOutput whole = causal_conv1d(x, weight, bias, starts_of({90}), {}, true);
  for (const Lengths& cut : {Lengths{1, 2, 87}, Lengths{40, 0, 50}, Lengths{2, 86, 2}}) {
    std::int64_t first = 0;
    at::Tensor state = at::zeros({1, 7, 3});
    std::vector<at::Tensor> parts;
    for (const std::int64_t length : cut) {
      const CausalConv1dOutput part = causal_conv1d(
          x.narrow(0, first, length), weight, bias, starts_of({length}), {state, {}}, true);
      parts.push_back(part.y_TC);
      state = part.final_states_BCK;
      first += length;
    }
    EXPECT_TRUE(at::equal(at::cat(parts), whole.y_TC));
    EXPECT_TRUE(at::equal(state, whole.final_states_BCK));
  }
}

/// Steps 12 tokens in slot 2 of 3, and beside them the same tokens alone, against the whole.
void expect_steps_like_the_whole(
    at::ScalarType dtype,
    std::int64_t channels,
    std::int64_t width,
    at::ScalarType parameters,
    at::ScalarType state_dtype) {
  const at::Tensor x = at::randn({12, channels}).to(dtype);
  const at::Tensor weight = at::randn({channels, width}).to(parameters);
  const at::Tensor bias = at::randn({channels}).to(parameters);
  const CausalConv1dOutput whole = causal_conv1d(x, weight, bias, starts_of({12}), {}, true);
  const at::Tensor states = at::zeros({3, channels, width - 1}, state_dtype);
  for (std::int64_t t = 0; t < 12; ++t) {
    const at::Tensor rows = x[t].unsqueeze(0).expand({2, channels}).contiguous();
    const at::Tensor y =
        causal_conv1d_step_(rows, weight, bias, states, at::tensor({2, -1}, at::kInt), true);
    expect_close(y[0], whole.y_TC[t], "step");
    const CausalConv1dOutput alone =
        causal_conv1d(rows.narrow(0, 1, 1), weight, bias, starts_of({1}), {}, true);
    expect_close(y[1], alone.y_TC[0], "slot -1");
  }
  EXPECT_TRUE(at::equal(states[2], whole.final_states_BCK[0].to(state_dtype)));
  EXPECT_EQ(states.narrow(0, 0, 2).count_nonzero().item<std::int64_t>(), 0);
}

TEST(CausalConv1d, StepsLikeTheWhole) {
  for (std::int64_t width = 1; width <= kMaxConvWidth; ++width) {
    for (const std::int64_t channels : {1, 21, 1037}) { // less than a vector, and several items
      for (const at::ScalarType dtype : kActivationTypes) {
        expect_steps_like_the_whole(dtype, channels, width, dtype, dtype);
      }
      for (const at::ScalarType parameters : {at::kFloat, at::kBFloat16}) {
        expect_steps_like_the_whole(at::kBFloat16, channels, width, parameters, at::kFloat);
      }
    }
  }
}

TEST(CausalConv1d, GivesEqualBitsOnAnyNumberOfThreads) {
  const Lengths lengths{700, 3, 0, 97};
  expect_equal_bits_on_threads([&] {
    at::manual_seed(3);
    const at::Tensor x = random_leaf({800, 130}, at::kFloat);
    const at::Tensor weight = random_leaf({130, 4}, at::kFloat);
    const at::Tensor bias = random_leaf({130}, at::kFloat);
    const CausalConv1dOutput out = causal_conv1d(x, weight, bias, starts_of(lengths), {}, true);
    out.y_TC.square().sum().backward();
    return std::vector<at::Tensor>{
        out.y_TC, out.final_states_BCK, x.grad(), weight.grad(), bias.grad()};
  });
}

TEST(CausalConv1d, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::ones({4, 2});
  const at::Tensor weight = at::ones({2, 4});
  const auto run = [&](const at::Tensor& starts, const CausalConv1dStates& states) {
    return causal_conv1d(x, weight, std::nullopt, starts, states, true);
  };
  const at::Tensor starts = starts_of({4});
  const at::Tensor state = at::zeros({1, 2, 3});
  EXPECT_THROW(run(starts_of({5}), {}), c10::Error);
  EXPECT_THROW(run(starts.to(at::kLong), {}), c10::Error);
  EXPECT_THROW(run(starts, {at::zeros({1, 2, 4}), {}}), c10::Error);
  EXPECT_THROW(run(starts, {at::zeros({2, 2, 3}), {}}), c10::Error);
  EXPECT_THROW(run(starts, {state.to(at::kBFloat16), {}}), c10::Error);
  EXPECT_THROW(run(starts, {state, at::tensor({1}, at::kInt)}), c10::Error);
  EXPECT_THROW(run(starts, {state, at::tensor({0, 0}, at::kInt)}), c10::Error);
  EXPECT_THROW(run(starts, {std::nullopt, at::tensor({0}, at::kInt)}), c10::Error);
  EXPECT_THROW(causal_conv1d(x, at::ones({2, 9}), std::nullopt, starts, {}, true), c10::Error);
}

TEST(CausalConv1d, RefusesStepsThatCouldNotBothBeStored) {
  const at::Tensor x = at::ones({2, 2});
  const at::Tensor weight = at::ones({2, 4});
  const at::Tensor states = at::zeros({3, 2, 3});
  const auto step = [&](const at::Tensor& input, const std::vector<int>& slots) {
    return causal_conv1d_step_(
        input, weight, std::nullopt, states, at::tensor(slots, at::kInt), true);
  };
  EXPECT_THROW(step(x, {1, 1}), c10::Error);
  EXPECT_THROW(step(x, {1, 3}), c10::Error);
  EXPECT_THROW(step(x, {1}), c10::Error);
  EXPECT_NO_THROW(step(x, {-1, -1}));
  const at::Tensor wants_gradient = at::ones({2, 2}).requires_grad_(true);
  EXPECT_THROW(step(wants_gradient, {0, 1}), c10::Error);
}

} // namespace
} // namespace baton::ops
