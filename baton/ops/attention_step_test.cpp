// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/attention_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

/// A power of two, since `add` rounds a scaled update to bf16 too.
constexpr double kScale = 0.5;

struct StepCase {
  std::vector<std::int64_t> positions; ///< tokens that each sequence has already
  std::int64_t page_size, D, Hq, Hk, P;
  std::int64_t pairs = 0; ///< that turn; 0 is without rotary
  bool interleaved = false;
  bool norm = false;
  bool bias = true;
};

// Odd sizes leave rests behind every vector and block, positions stand around the borders of pages
// and of splits of the keys; the last fill several items of a product.
const std::vector<StepCase> kCases{
    {{0}, 4, 7, 2, 1, 6},
    {{1}, 1, 12, 2, 2, 8, 4},
    {{3}, 4, 33, 3, 3, 17, 0, false, true, false},
    {{4}, 4, 20, 6, 2, 10, 5, true},
    {{5, 0}, 4, 16, 4, 1, 12, 3, true, true},
    {{127, 128, 129}, 16, 24, 8, 4, 16, 8, false, true, false},
    {{300, 7, 0, 15, 16}, 8, 31, 10, 10, 9, 2, false, false, false},
    {{511, 1, 512, 2, 700, 63, 64, 0}, 16, 64, 8, 2, 32, 16, false, true},
    {{9, 8, 7, 6, 5, 4, 3, 2, 1}, 4, 16, 2, 2, 8, 4},
    {{}, 4, 16, 2, 2, 8, 4},
    {{900}, 16, 512, 8, 2, 64, 32, false, false, false},
    {{260}, 16, 1024, 16, 16, 64, 16, true, true},
};

std::string name_of(const StepCase& sizes) {
  return "B " + std::to_string(sizes.positions.size()) + ", D " + std::to_string(sizes.D) +
         ", Hq " + std::to_string(sizes.Hq) + ", Hk " + std::to_string(sizes.Hk);
}

struct Step {
  AttentionStepInputs inputs;
  AttentionStepCache cache;
};

/// Pages are taken in random order; those of keys and values lie side by side. NaN stands for what
/// must never be read.
AttentionStepCache make_cache(const StepCase& sizes, at::ScalarType dtype) {
  const auto batch = static_cast<std::int64_t>(sizes.positions.size());
  std::int64_t width = 1;
  for (const std::int64_t position : sizes.positions) {
    width = std::max(width, (position + 2) / sizes.page_size + 1); // room for two more tokens
  }
  const std::int64_t num_pages = batch * width + 2;
  const at::Tensor storage = at::full(
      {num_pages, sizes.page_size, 2, sizes.Hk, sizes.P},
      std::numeric_limits<double>::quiet_NaN(),
      dtype);
  const at::Tensor table_BM =
      at::randperm(num_pages, at::kLong).narrow(0, 0, batch * width).view({batch, width});
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t i = 0; i < sizes.positions[b]; ++i) {
      storage[table_BM[b][i / sizes.page_size].item<std::int64_t>()][i % sizes.page_size].copy_(
          at::randn({2, sizes.Hk, sizes.P}, at::kDouble));
    }
  }
  return {
      storage.select(2, 0),
      storage.select(2, 1),
      table_BM.to(at::kInt),
      at::tensor(sizes.positions, at::kLong).to(at::kInt)};
}

Step make_step(const StepCase& sizes, at::ScalarType dtype) {
  const std::int64_t queries = sizes.Hq * sizes.P;
  const std::int64_t keys = sizes.Hk * sizes.P;
  const auto normal = [&](at::IntArrayRef shape) {
    return at::randn(shape, at::kDouble).to(dtype);
  };
  const auto weight = [&](std::int64_t rows, std::int64_t columns) {
    return (at::randn({rows, columns}, at::kDouble) / std::sqrt(columns)).to(dtype);
  };
  const auto if_bias = [&](std::int64_t size) {
    return sizes.bias ? std::optional(normal({size})) : std::nullopt;
  };
  const auto if_norm = [&] { return sizes.norm ? std::optional(normal({sizes.P})) : std::nullopt; };
  return {
      {.hidden_BD = normal({static_cast<std::int64_t>(sizes.positions.size()), sizes.D}),
       .frame = {normal({sizes.D}), 1e-5, kScale},
       .q_weight_QD = weight(queries, sizes.D),
       .q_bias_Q = if_bias(queries),
       .k_weight_KD = weight(keys, sizes.D),
       .k_bias_K = if_bias(keys),
       .v_weight_KD = weight(keys, sizes.D),
       .v_bias_K = if_bias(keys),
       .q_norm_weight_P = if_norm(),
       .k_norm_weight_P = if_norm(),
       .head_norm_eps = 1e-4,
       .inverse_frequencies =
           sizes.pairs > 0 ? std::optional(at::rand({sizes.pairs}, at::kDouble)
                                               .to(dtype == at::kDouble ? at::kDouble : at::kFloat))
                           : std::nullopt,
       .attention_factor = 1.1,
       .interleaved = sizes.interleaved,
       .softmax_scale = 1.0 / std::sqrt(static_cast<double>(sizes.P)),
       .out_weight_DQ = weight(sizes.D, queries),
       .out_bias_D = if_bias(sizes.D)},
      make_cache(sizes, dtype)};
}

AttentionStepCache copy_of(const AttentionStepCache& cache) {
  return {cache.k_pages.clone(), cache.v_pages.clone(), cache.page_table_BM, cache.positions_B};
}

at::Tensor written(const at::Tensor& pages) {
  return pages.nan_to_num(0.0);
}

void expect_equal_pages(
    const at::Tensor& found,
    const at::Tensor& expected,
    const std::string& what) {
  EXPECT_TRUE(at::equal(found.isnan(), expected.isnan())) << what;
  EXPECT_TRUE(at::equal(written(found), written(expected))) << what;
}

/// The same step in fp64.
Step judge_of(const Step& step) {
  const auto wide = [](const std::optional<at::Tensor>& tensor) {
    return tensor ? std::optional(tensor->to(at::kDouble)) : std::nullopt;
  };
  Step judge = step;
  AttentionStepInputs& in = judge.inputs;
  in.hidden_BD = in.hidden_BD.to(at::kDouble);
  in.frame.norm_weight_D = in.frame.norm_weight_D.to(at::kDouble);
  for (at::Tensor* weight :
       {&in.q_weight_QD, &in.k_weight_KD, &in.v_weight_KD, &in.out_weight_DQ}) {
    *weight = weight->to(at::kDouble);
  }
  for (std::optional<at::Tensor>* tensor :
       {&in.q_bias_Q,
        &in.k_bias_K,
        &in.v_bias_K,
        &in.q_norm_weight_P,
        &in.k_norm_weight_P,
        &in.out_bias_D}) {
    *tensor = wide(*tensor);
  }
  judge.cache.k_pages = step.cache.k_pages.to(at::kDouble);
  judge.cache.v_pages = step.cache.v_pages.to(at::kDouble);
  return judge;
}

class AttentionStep : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(AttentionStep, HasTheBitsOfTheOperatorsOneAfterTheOther) {
  at::manual_seed(1);
  for (const StepCase& sizes : kCases) {
    Step step = make_step(sizes, GetParam());
    AttentionStepCache expected_cache = copy_of(step.cache);
    for (int token = 0; token < 3; ++token) {
      const at::Tensor found = attention_step_(step.inputs, step.cache);
      const at::Tensor expected = attention_step_by_operators_(step.inputs, expected_cache);
      EXPECT_EQ(found.scalar_type(), GetParam());
      EXPECT_TRUE(at::equal(found, expected)) << name_of(sizes);
      expect_equal_pages(step.cache.k_pages, expected_cache.k_pages, name_of(sizes));
      expect_equal_pages(step.cache.v_pages, expected_cache.v_pages, name_of(sizes));
      step.inputs.hidden_BD = found;
      step.cache.positions_B = step.cache.positions_B + 1;
      expected_cache.positions_B = step.cache.positions_B;
    }
  }
}

TEST_P(AttentionStep, FollowsThatInFp64) {
  // In bf16 a dozen results on the way are rounded too, each to 2^-9.
  const double allowed = GetParam() == at::kBFloat16 ? 3e-2 : tolerance(GetParam());
  at::manual_seed(5);
  for (const StepCase& sizes : kCases) {
    const Step step = make_step(sizes, GetParam());
    const Step judge = judge_of(step);
    const at::Tensor found = attention_step_(step.inputs, step.cache);
    const at::Tensor expected = attention_step_by_operators_(judge.inputs, judge.cache);
    if (found.numel() > 0) {
      const double scale = std::max(1.0, expected.abs().max().item<double>());
      const double error = (found.to(at::kDouble) - expected).abs().max().item<double>();
      EXPECT_LE(error, allowed * scale) << name_of(sizes);
    }
  }
}

TEST_P(AttentionStep, ThreadsDoNotChangeBits) {
  at::manual_seed(2);
  for (const StepCase& sizes : kCases) {
    const Step step = make_step(sizes, GetParam());
    expect_equal_bits_on_threads([&] {
      const AttentionStepCache cache = copy_of(step.cache);
      const at::Tensor out = attention_step_(step.inputs, cache);
      return std::vector<at::Tensor>{out, written(cache.k_pages), written(cache.v_pages)};
    });
  }
}

TEST_P(AttentionStep, SequencesDoNotSeeEachOther) {
  at::manual_seed(3);
  const Step step = make_step(kCases[7], GetParam());
  const AttentionStepCache cache = copy_of(step.cache);
  const at::Tensor all = attention_step_(step.inputs, cache);
  for (std::int64_t row = 0; row < all.size(0); ++row) {
    Step alone = step;
    alone.inputs.hidden_BD = step.inputs.hidden_BD.narrow(0, row, 1);
    alone.cache.page_table_BM = step.cache.page_table_BM.narrow(0, row, 1);
    alone.cache.positions_B = step.cache.positions_B.narrow(0, row, 1);
    expect_close(
        attention_step_(alone.inputs, alone.cache), all.narrow(0, row, 1), std::to_string(row));
  }
  expect_close(written(cache.k_pages), written(step.cache.k_pages), "keys");
  expect_close(written(cache.v_pages), written(step.cache.v_pages), "values");
}

TEST_P(AttentionStep, TakesWhatLiesApart) {
  at::manual_seed(6);
  const Step dense = make_step(kCases[5], GetParam());
  const at::Tensor expected = attention_step_(dense.inputs, copy_of(dense.cache));
  Step rows = dense;
  rows.inputs.hidden_BD = with_row_gap(dense.inputs.hidden_BD, 3);
  rows.inputs.k_weight_KD = with_row_gap(dense.inputs.k_weight_KD, 5);
  expect_close(attention_step_(rows.inputs, copy_of(rows.cache)), expected, "rows");
  Step weights = dense;
  weights.inputs.v_weight_KD = dense.inputs.v_weight_KD.t().contiguous().t();
  expect_close(attention_step_(weights.inputs, copy_of(weights.cache)), expected, "weights");
  Step pages = dense;
  pages.cache.k_pages = dense.cache.k_pages.transpose(2, 3).contiguous().transpose(2, 3);
  expect_close(attention_step_(pages.inputs, pages.cache), expected, "pages");
}

INSTANTIATE_TEST_SUITE_P(Dtypes, AttentionStep, ::testing::ValuesIn(kActivationTypes));

TEST(AttentionStepStreams, MayBeWiderThanTheLayer) {
  at::manual_seed(4);
  const Step step = make_step(kCases[5], at::kBFloat16);
  AttentionStepInputs wide = step.inputs;
  wide.hidden_BD = step.inputs.hidden_BD.to(at::kFloat);
  const at::Tensor found = attention_step_(wide, copy_of(step.cache));
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  const at::Tensor narrow = attention_step_(step.inputs, copy_of(step.cache));
  expect_close(found.to(at::kBFloat16), narrow, "fp32 beside bf16");
}

TEST(AttentionStepErrors, RefusesGradientsBadTablesAndBadSizes) {
  const Step step = make_step(kCases[4], at::kFloat);
  const auto expect_refused = [&](auto change) {
    Step changed = step;
    change(changed);
    EXPECT_THROW(attention_step_(changed.inputs, changed.cache), c10::Error);
  };
  expect_refused([](Step& s) { s.cache.positions_B = at::tensor({5, -1}, at::kInt); });
  expect_refused([](Step& s) { s.cache.positions_B = at::tensor({5, 1000}, at::kInt); });
  expect_refused([](Step& s) { s.cache.positions_B = at::tensor({5}, at::kInt); });
  expect_refused([](Step& s) { s.cache.positions_B = at::tensor({5, 0}, at::kLong); });
  expect_refused([](Step& s) { s.cache.page_table_BM = at::full({2, 3}, 99, at::kInt); });
  expect_refused([](Step& s) { s.cache.page_table_BM = s.cache.page_table_BM.narrow(0, 0, 1); });
  expect_refused([](Step& s) { s.cache.v_pages = s.cache.v_pages.narrow(1, 0, 2); });
  expect_refused([](Step& s) {
    s.cache.k_pages = s.cache.k_pages.to(at::kDouble);
    s.cache.v_pages = s.cache.v_pages.to(at::kDouble);
  });
  expect_refused([](Step& s) { s.inputs.hidden_BD = s.inputs.hidden_BD.narrow(1, 0, 3); });
  expect_refused([](Step& s) { s.inputs.q_weight_QD = s.inputs.q_weight_QD.narrow(0, 0, 7); });
  expect_refused([](Step& s) { s.inputs.k_weight_KD = s.inputs.q_weight_QD; });
  expect_refused([](Step& s) { s.inputs.v_bias_K = at::zeros({3}); });
  expect_refused([](Step& s) { s.inputs.q_norm_weight_P = at::zeros({3}); });
  expect_refused([](Step& s) { s.inputs.inverse_frequencies = at::zeros({7}); });
  expect_refused([](Step& s) { s.inputs.out_weight_DQ = s.inputs.out_weight_DQ.t(); });
  expect_refused([](Step& s) { s.inputs.out_bias_D = at::zeros({3}); });
  expect_refused([](Step& s) { s.inputs.frame.norm_weight_D = at::zeros({3}); });
  expect_refused(
      [](Step& s) { s.inputs.hidden_BD = s.inputs.hidden_BD.clone().requires_grad_(true); });
}

} // namespace
} // namespace baton::ops
