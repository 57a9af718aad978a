// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cross_entropy.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace baton::ops {
namespace {

/// Relative to the largest value. Sums run in fp32 for bf16 inputs.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : 2e-5;
}

void expect_close(const at::Tensor& got, const at::Tensor& want, double limit, const char* what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  if (want.numel() > 0) {
    const double scale = want.abs().max().item<double>();
    const double error = (got.to(at::kDouble) - want).abs().max().item<double>();
    EXPECT_LE(error, limit * scale + 1e-300) << what;
  }
}

/// Gradients of bf16 inputs: those of the logits are rounded to bf16 where products of bf16 are
/// quick, and what comes out is: by up to 2^-8 of their size.
void expect_rounded(
    const at::Tensor& got,
    const at::Tensor& want,
    const at::Tensor& sizes_of_terms,
    const char* what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  if (want.numel() > 0) {
    const at::Tensor bound = (sizes_of_terms + want.abs()) * (1.01 / 256) + 2e-5 * want.abs().max();
    const at::Tensor error = (got.to(at::kDouble) - want).abs();
    EXPECT_TRUE(error.le(bound).all().item<bool>()) << what << ": " << (error - bound).max();
  }
}

struct Case {
  at::Tensor hidden_TD;
  at::Tensor weight_VD;
  at::Tensor labels_T;
  std::optional<at::Tensor> mask_T;
  double logit_scale = 0.7;
};

Case make_case(
    std::int64_t tokens,
    std::int64_t vocabulary,
    std::int64_t width,
    at::ScalarType dtype,
    bool masked) {
  at::manual_seed(tokens + vocabulary);
  Case c;
  c.hidden_TD = at::randn({tokens, width}, at::kDouble).to(dtype);
  c.weight_VD = at::randn({vocabulary, width}, at::kDouble).to(dtype);
  c.labels_T = at::randint(0, vocabulary, {tokens}, at::kLong);
  if (masked) {
    c.mask_T = at::rand({tokens}, at::kFloat);
    if (tokens > 2) {
      c.labels_T[1] = kIgnoredLabel;
      c.mask_T->select(0, 2).zero_();
    }
  }
  return c;
}

struct Results {
  CrossEntropyOutput output;
  std::vector<at::Tensor> gradients;
  std::vector<at::Tensor> sizes_of_terms; ///< of the formula: sums of absolute terms of gradients
};

Results run(const Case& c, std::int64_t block_tokens) {
  const at::Tensor hidden = c.hidden_TD.detach().requires_grad_();
  const at::Tensor weight = c.weight_VD.detach().requires_grad_();
  Results results;
  results.output = cross_entropy(hidden, weight, c.labels_T, c.mask_T, c.logit_scale, block_tokens);
  results.gradients = torch::autograd::grad({results.output.loss_sum * 0.25}, {hidden, weight});
  return results;
}

Results run_formula(const Case& c) {
  const at::Tensor hidden = c.hidden_TD.to(at::kDouble).detach().requires_grad_();
  const at::Tensor weight = c.weight_VD.to(at::kDouble).detach().requires_grad_();
  const at::Tensor products = at::matmul(hidden, weight.t());
  const at::Tensor logits = products * c.logit_scale;
  const at::Tensor kept = c.labels_T.ne(kIgnoredLabel);
  const at::Tensor labels = at::where(kept, c.labels_T, at::zeros_like(c.labels_T));
  const at::Tensor nll =
      -at::log_softmax(logits, 1).gather(1, labels.unsqueeze(1)).squeeze(1) * kept;
  const at::Tensor mask = c.mask_T ? c.mask_T->to(at::kDouble) : at::ones_like(nll);
  Results results;
  results.output = {(nll * mask).sum(), nll};
  results.gradients =
      torch::autograd::grad({results.output.loss_sum * 0.25}, {hidden, weight, products});
  const at::Tensor terms = results.gradients.back().abs();
  results.gradients.pop_back();
  results.sizes_of_terms = {
      at::matmul(terms, weight.detach().abs()), at::matmul(terms.t(), hidden.detach().abs())};
  return results;
}

TEST(CrossEntropy, FollowsTheFormulaInEveryDtypeAndBlock) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const std::int64_t tokens : {0, 1, 7, 8, 9, 50}) {
      for (const std::int64_t block : {0, 1, 8}) {
        for (const bool masked : {false, true}) {
          const std::int64_t width = masked ? 24 : 23; // bf16 units take depths by twos
          SCOPED_TRACE(
              std::string(c10::toString(dtype)) + " tokens " + std::to_string(tokens) + " block " +
              std::to_string(block));
          const Case c = make_case(tokens, 101, width, dtype, masked);
          const Results got = run(c, block);
          const Results want = run_formula(c);
          expect_close(
              got.output.loss_sum, want.output.loss_sum.detach(), tolerance(dtype), "loss");
          expect_close(got.output.nll_T, want.output.nll_T.detach(), tolerance(dtype), "nll");
          for (const std::size_t i : {0, 1}) {
            const char* name = i == 0 ? "dhidden" : "dweight";
            if (dtype == at::kBFloat16) {
              expect_rounded(got.gradients[i], want.gradients[i], want.sizes_of_terms[i], name);
            } else {
              expect_close(got.gradients[i], want.gradients[i], tolerance(dtype), name);
            }
          }
          EXPECT_EQ(got.gradients[1].scalar_type(), dtype);
        }
      }
    }
  }
}

TEST(CrossEntropy, WithoutGradientsTheLossIsTheSame) {
  const Case c = make_case(50, 101, 24, at::kFloat, true);
  const CrossEntropyOutput plain =
      cross_entropy(c.hidden_TD, c.weight_VD, c.labels_T, c.mask_T, c.logit_scale, 8);
  const Results with_gradients = run(c, 8);
  EXPECT_TRUE(at::equal(plain.loss_sum, with_gradients.output.loss_sum));
  EXPECT_TRUE(at::equal(plain.nll_T, with_gradients.output.nll_T));
  EXPECT_FALSE(plain.loss_sum.requires_grad());
  EXPECT_FALSE(with_gradients.output.nll_T.requires_grad());
}

TEST(CrossEntropy, OneSidedGradients) {
  const Case c = make_case(9, 11, 6, at::kDouble, false);
  const Results both = run(c, 0);
  const at::Tensor hidden = c.hidden_TD.detach().requires_grad_();
  const auto output = cross_entropy(hidden, c.weight_VD, c.labels_T, c.mask_T, c.logit_scale);
  const auto gradients = torch::autograd::grad({output.loss_sum * 0.25}, {hidden});
  EXPECT_TRUE(at::equal(gradients[0], both.gradients[0]));
}

TEST(CrossEntropy, TakesStridedInputs) {
  Case c = make_case(20, 33, 12, at::kFloat, true);
  const Results packed = run(c, 8);
  c.hidden_TD = at::cat({c.hidden_TD, c.hidden_TD}, 1).narrow(1, 0, 12);
  c.weight_VD = c.weight_VD.t().contiguous().t();
  const Results strided = run(c, 8);
  expect_close(strided.gradients[0], packed.gradients[0].to(at::kDouble), 1e-6, "dhidden");
  expect_close(strided.gradients[1], packed.gradients[1].to(at::kDouble), 1e-6, "dweight");
}

TEST(CrossEntropy, LargeLogitsStayFinite) {
  Case c = make_case(9, 40, 16, at::kFloat, false);
  c.logit_scale = 1e4;
  const Results got = run(c, 0);
  const Results want = run_formula(c);
  expect_close(got.output.loss_sum, want.output.loss_sum.detach(), 1e-5, "loss");
  EXPECT_TRUE(got.gradients[0].isfinite().all().item<bool>());
}

TEST(CrossEntropy, EqualBitsForOneAndTwoThreads) {
  const int threads = at::get_num_threads();
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Case c = make_case(300, 1000, 64, dtype, true);
    at::set_num_threads(1);
    const Results one = run(c, 128);
    at::set_num_threads(2);
    const Results two = run(c, 128);
    EXPECT_TRUE(at::equal(one.output.loss_sum, two.output.loss_sum));
    EXPECT_TRUE(at::equal(one.output.nll_T, two.output.nll_T));
    EXPECT_TRUE(at::equal(one.gradients[0], two.gradients[0]));
    EXPECT_TRUE(at::equal(one.gradients[1], two.gradients[1]));
  }
  at::set_num_threads(threads);
}

TEST(CrossEntropy, BlocksFitTheVocabulary) {
  EXPECT_EQ(cross_entropy_block(5, 1000), 5);
  EXPECT_EQ(cross_entropy_block(0, 32768), 256);
  EXPECT_EQ(cross_entropy_block(0, 1 << 24), 16);
}

TEST(CrossEntropy, SaysWhatIsWrong) {
  Case c = make_case(4, 10, 6, at::kFloat, false);
  const auto refusal = [&c] {
    try {
      cross_entropy(c.hidden_TD, c.weight_VD, c.labels_T, c.mask_T);
    } catch (const c10::Error& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string();
  };
  c.labels_T[2] = 10;
  EXPECT_NE(refusal().find("in [0, 10), got 10 at token 2"), std::string::npos);
  c.labels_T[2] = 3;
  c.mask_T = at::ones({3}, at::kFloat);
  EXPECT_NE(refusal().find("one weight a token"), std::string::npos);
  c.mask_T = std::nullopt;
  c.labels_T = c.labels_T.to(at::kInt);
  EXPECT_NE(refusal().find("labels must be int64"), std::string::npos);
}

} // namespace
} // namespace baton::ops
