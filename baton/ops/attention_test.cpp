// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/attention.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "baton/base/layout.h"

namespace baton::ops {
namespace {

using Lengths = std::vector<std::int64_t>;

/// Largest error relative to the largest value: what rounding of inputs of size 1 leaves after sums
/// of some hundred terms.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-13 : dtype == at::kFloat ? 1e-5 : 2e-2;
}

void expect_close(const at::Tensor& got, const at::Tensor& want, double limit, const char* what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  if (want.numel() > 0) {
    const double scale = std::max(1.0, want.abs().max().item<double>());
    const double error = (got.to(at::kDouble) - want).abs().max().item<double>();
    EXPECT_LE(error, limit * scale) << what; // also fails for NaN
  }
}

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

/// The formula, sequence by sequence, in fp64: {out, log sum exp}.
AttentionOutput plain_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const Lengths& lengths_q,
    const Lengths& lengths_k,
    double scale) {
  const std::int64_t group = q_THP.size(1) / k_THP.size(1);
  std::vector<at::Tensor> outs{at::empty({0, q_THP.size(1), q_THP.size(2)}, at::kDouble)};
  std::vector<at::Tensor> sums{at::empty({q_THP.size(1), 0}, at::kDouble)};
  std::int64_t first_q = 0;
  std::int64_t first_k = 0;
  for (std::size_t b = 0; b < lengths_q.size(); ++b) {
    const std::int64_t num_q = lengths_q[b];
    const std::int64_t num_k = lengths_k[b];
    const at::Tensor q = q_THP.narrow(0, first_q, num_q).transpose(0, 1);
    const at::Tensor k =
        k_THP.narrow(0, first_k, num_k).transpose(0, 1).repeat_interleave(group, 0);
    const at::Tensor v =
        v_THP.narrow(0, first_k, num_k).transpose(0, 1).repeat_interleave(group, 0);
    const at::Tensor hidden = at::ones({num_q, num_k}, at::kBool).triu(num_k - num_q + 1);
    const at::Tensor scores = (at::matmul(q, k.transpose(1, 2)) * scale)
                                  .masked_fill(hidden, -std::numeric_limits<double>::infinity());
    if (num_q > 0) {
      outs.push_back(at::matmul(scores.softmax(-1), v).transpose(0, 1));
      sums.push_back(scores.logsumexp(-1));
    }
    first_q += num_q;
    first_k += num_k;
  }
  return {at::cat(outs, 0), at::cat(sums, 1)};
}

struct Case {
  at::ScalarType dtype;
  std::int64_t num_heads;
  std::int64_t num_key_heads;
  std::int64_t head_dim;
  Lengths lengths_q;
  Lengths lengths_k;
};

/// q, k and v as strided views of one projection where their lengths allow it.
std::vector<at::Tensor> make_inputs(const Case& c) {
  at::manual_seed(1);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const std::int64_t heads = c.num_heads + 2 * c.num_key_heads;
  const at::Tensor q_side = at::randn({total(c.lengths_q), heads, c.head_dim}, options).to(c.dtype);
  const at::Tensor k_side =
      c.lengths_q == c.lengths_k
          ? q_side
          : at::randn({total(c.lengths_k), heads, c.head_dim}, options).to(c.dtype);
  return {
      q_side.narrow(1, 0, c.num_heads),
      k_side.narrow(1, c.num_heads, c.num_key_heads),
      k_side.narrow(1, c.num_heads + c.num_key_heads, c.num_key_heads)};
}

struct Results {
  AttentionOutput output;
  std::vector<at::Tensor> gradients;
};

Results run(const Case& c, const std::vector<at::Tensor>& inputs, const at::Tensor& dout) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().requires_grad_());
  }
  Results results;
  results.output = attention(
      leaves[0], leaves[1], leaves[2], starts_of(c.lengths_q), starts_of(c.lengths_k), 0.3);
  results.gradients = torch::autograd::grad({results.output.out_THP}, leaves, {dout});
  return results;
}

void check_against_formula(const Case& c) {
  const std::vector<at::Tensor> inputs = make_inputs(c);
  const at::Tensor dout = at::randn(inputs[0].sizes(), at::kDouble).to(c.dtype);
  const Results got = run(c, inputs, dout);
  std::vector<at::Tensor> wide;
  for (const at::Tensor& input : inputs) {
    wide.push_back(input.to(at::kDouble).detach().requires_grad_());
  }
  const AttentionOutput want =
      plain_attention(wide[0], wide[1], wide[2], c.lengths_q, c.lengths_k, 0.3);
  const double limit = tolerance(c.dtype);
  expect_close(got.output.out_THP, want.out_THP.detach(), limit, "out");
  expect_close(got.output.log_sum_exp_HT, want.log_sum_exp_HT.detach(), limit, "log_sum_exp");
  EXPECT_EQ(got.output.out_THP.scalar_type(), c.dtype);
  const at::Tensor zero = (wide[0].sum() + wide[1].sum() + wide[2].sum()) * 0;
  const auto gradients = torch::autograd::grad(
      {(want.out_THP * dout.to(at::kDouble)).sum() + zero}, {wide[0], wide[1], wide[2]});
  expect_close(got.gradients[0], gradients[0], limit, "dq");
  expect_close(got.gradients[1], gradients[1], limit, "dk");
  expect_close(got.gradients[2], gradients[2], limit, "dv");
}

TEST(Attention, FollowsTheFormulaInEveryDtypeAndLayout) {
  const std::vector<std::pair<Lengths, Lengths>> layouts{
      {{}, {}},
      {{0}, {0}},
      {{1}, {1}},
      {{5, 0, 33, 1, 64, 65}, {5, 0, 33, 1, 64, 65}},
      {{2, 0, 1, 7}, {9, 4, 6, 7}}, // continued, no queries, one query, plain
      {{40}, {300}},
  };
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const auto& [lengths_q, lengths_k] : layouts) {
      for (const auto& [heads, key_heads, head_dim] :
           std::vector<std::tuple<int, int, int>>{{4, 4, 16}, {6, 2, 24}, {5, 1, 17}}) {
        SCOPED_TRACE(
            std::string(c10::toString(dtype)) + " heads " + std::to_string(heads) + " tokens " +
            std::to_string(total(lengths_k)));
        check_against_formula({dtype, heads, key_heads, head_dim, lengths_q, lengths_k});
      }
    }
  }
}

TEST(Attention, ALongSequenceFollowsTheFormula) {
  check_against_formula({at::kFloat, 2, 1, 64, {1100}, {1100}});
}

TEST(Attention, ChunksOfQueriesGiveTheWhole) {
  const Case whole{at::kDouble, 4, 2, 16, {50}, {50}};
  const std::vector<at::Tensor> inputs = make_inputs(whole);
  const AttentionOutput all =
      attention(inputs[0], inputs[1], inputs[2], starts_of({50}), starts_of({50}), 0.3);
  for (const std::int64_t cut : {1, 17, 49}) {
    const AttentionOutput tail = attention(
        inputs[0].narrow(0, cut, 50 - cut),
        inputs[1],
        inputs[2],
        starts_of({50 - cut}),
        starts_of({50}),
        0.3);
    expect_close(tail.out_THP, all.out_THP.narrow(0, cut, 50 - cut), 1e-13, "chunk");
  }
}

TEST(Attention, EqualBitsForOneAndTwoThreads) {
  const int threads = at::get_num_threads();
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Lengths& lengths_q : {Lengths{300, 7, 0, 129}, Lengths{700}, Lengths{40}}) {
      const Lengths lengths_k = lengths_q == Lengths{40} ? Lengths{333} : lengths_q;
      const Case c{dtype, 4, 2, 64, lengths_q, lengths_k};
      const std::vector<at::Tensor> inputs = make_inputs(c);
      const at::Tensor dout = at::randn(inputs[0].sizes(), at::kDouble).to(dtype);
      at::set_num_threads(1);
      const Results one = run(c, inputs, dout);
      at::set_num_threads(2);
      const Results two = run(c, inputs, dout);
      EXPECT_TRUE(at::equal(one.output.out_THP, two.output.out_THP));
      EXPECT_TRUE(at::equal(one.output.log_sum_exp_HT, two.output.log_sum_exp_HT));
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(at::equal(one.gradients[i], two.gradients[i])) << i;
      }
    }
  }
  at::set_num_threads(threads);
}

TEST(Attention, WorksInInferenceMode) {
  const Case c{at::kFloat, 4, 2, 16, {5, 9}, {5, 9}};
  const std::vector<at::Tensor> inputs = make_inputs(c);
  const c10::InferenceMode inference;
  const AttentionOutput output = attention(
      inputs[0], inputs[1], inputs[2], starts_of(c.lengths_q), starts_of(c.lengths_k), 0.3);
  EXPECT_TRUE(output.out_THP.isfinite().all().item<bool>());
}

std::string refusal(const Case& c, double scale = 0.3) {
  const std::vector<at::Tensor> inputs = make_inputs(c);
  try {
    attention(
        inputs[0], inputs[1], inputs[2], starts_of(c.lengths_q), starts_of(c.lengths_k), scale);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(Attention, TakesBoundsOnLengths) {
  const Case c{at::kFloat, 4, 2, 8, {3, 2}, {7, 4}};
  const std::vector<at::Tensor> inputs = make_inputs(c);
  const auto attend = [&](const LongestSequences& longest) {
    return attention(
               inputs[0],
               inputs[1],
               inputs[2],
               starts_of(c.lengths_q),
               starts_of(c.lengths_k),
               0.3,
               longest)
        .out_THP;
  };
  EXPECT_TRUE(at::equal(attend({.queries = 3, .keys = 7}), attend({})));
  EXPECT_THROW(attend({.queries = 2}), c10::Error);
  EXPECT_THROW(attend({.queries = 3, .keys = 6}), c10::Error);
}

TEST(Attention, SaysWhatIsWrong) {
  EXPECT_NE(
      refusal({at::kFloat, 4, 2, 8, {3, 5}, {3, 4}}).find("sequence 1 has 5 and 4"),
      std::string::npos);
  EXPECT_NE(
      refusal({at::kFloat, 5, 2, 8, {3}, {3}}).find("multiple of key heads: 5 vs 2"),
      std::string::npos);
  EXPECT_NE(
      refusal({at::kFloat, 4, 2, 8, {3}, {3, 0}}).find("as many sequences"), std::string::npos);
}

} // namespace
} // namespace baton::ops
