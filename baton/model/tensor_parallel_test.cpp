// SPDX-License-Identifier: Apache-2.0
// A model whose matrices several ranks share against the same model on one rank.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/model/example_models.h"
#include "baton/model/hybrid_model.h"
#include "baton/nn/tensor_gradients.h"
#include "baton/parallel/context.h"
#include "baton/parallel/tensor_rows.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::model {
namespace {

using parallel::Axis;
using parallel::Context;
using parallel::ContextRules;
using parallel::ContextStrategy;
using parallel::KeyExchange;
using parallel::Mesh;
using testing::HasSubstr;

// The orders of additions differ: over ranks, over heads, over shares of the vocabulary.
constexpr double kTolerance = 1e-10;

// Nothing here divides by the ranks but heads: not the tokens, the MLP's width or the vocabulary.
ModelConfig tiny_config(const std::string& pattern) {
  return example_config(pattern, 12, 12);
}

/// The ranks that a model and its stream are shared by.
struct Ranks {
  parallel::Group tensor;
  const Context* shared = nullptr;
};

struct Found {
  at::Tensor hidden_RD;
  at::Tensor loss;
  at::Tensor nll_T;
  std::vector<at::Tensor> values;
  std::vector<at::Tensor> gradients;
  std::vector<std::vector<nn::ParameterPiece>> pieces;
};

Found work_on(const ModelConfig& config, const SequenceLayout& stream, const Ranks& ranks) {
  HybridModel model(config, ranks.tensor);
  model.parameters().initialize(3, config.scalar_type(), at::kCPU);
  const Context* shared = ranks.shared;
  const SequenceLayout& layout = shared == nullptr ? stream : shared->layout();
  const nn::StepContext context{
      .layout = layout,
      .positions_T = layout.positions(),
      .dropout = true,
      .random_key = RandomKey(11),
      .shared = shared};
  const std::int64_t tokens = stream.num_tokens;
  const auto own = [&](const at::Tensor& values) {
    return shared == nullptr ? values : shared->own_rows(values);
  };
  const at::Tensor labels = random_ids(6, tokens, config.vocabulary);
  const at::Tensor masks = uniform(RandomKey(7), {tokens}, 0.0, 2.0).to(at::kFloat).floor();
  Found found;
  const at::Tensor hidden = model.hidden(own(random_ids(5, tokens, config.vocabulary)), context);
  const nn::LossOutput loss = model.loss(
      hidden, own(labels.masked_fill(random_ids(8, tokens, 5) == 0, -100)), own(masks + 0.25));
  (loss.loss_sum * 0.5).backward();
  nn::sum_tensor_gradients(model.parameters());
  found.hidden_RD = hidden.detach();
  found.loss = loss.loss_sum.detach().view(1);
  found.nll_T = loss.nll_T;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    found.values.push_back(parameter.value.detach());
    found.gradients.push_back(parameter.value.grad());
    found.pieces.push_back(model.parameters().pieces_of(parameter.spec));
  }
  return found;
}

void expect_close(const at::Tensor& found, const at::Tensor& wanted, const std::string& what) {
  ASSERT_EQ(found.sizes(), wanted.sizes()) << what;
  const double scale = 1.0 + (wanted.numel() == 0 ? 0.0 : wanted.abs().max().item<double>());
  const double off = wanted.numel() == 0 ? 0.0 : (found - wanted).abs().max().item<double>();
  EXPECT_LE(off, kTolerance * scale) << what;
}

/// Ranks that hold the same values have equal bits, so that their parameters stay equal.
void expect_equal_holders(
    const std::vector<nn::ParameterPiece>& pieces,
    const at::Tensor& gradient,
    const parallel::Group& ranks,
    const std::string& what) {
  for (const nn::ParameterPiece& piece : pieces) {
    if (piece.holders > 1) {
      const at::Tensor all = ranks.all_gather(piece.of(gradient).contiguous());
      EXPECT_TRUE(at::equal(all[ranks.rank()], all[ranks.rank() - piece.holder])) << what;
    }
  }
}

/// Every holder has the whole gradient, and those that write it have each value once.
void expect_pieces(
    const Found& found,
    std::size_t parameter,
    const Found& wanted,
    const Mesh& mesh,
    const std::string& what) {
  const at::Tensor gradient = found.gradients[parameter].contiguous();
  expect_equal_holders(found.pieces[parameter], gradient, mesh.along(Axis::kTensor), what);
  mesh.along(Axis::kContext).all_reduce_(gradient);
  at::Tensor written = at::zeros_like(wanted.gradients[parameter]);
  for (const nn::ParameterPiece& piece : found.pieces[parameter]) {
    EXPECT_TRUE(
        at::equal(piece.of(found.values[parameter]), piece.of_whole(wanted.values[parameter])))
        << what;
    expect_close(piece.of(gradient), piece.of_whole(wanted.gradients[parameter]), what);
    if (piece.holder == 0) {
      piece.of_whole(written).copy_(piece.of(gradient));
    }
  }
  mesh.along(Axis::kTensor).all_reduce_(written);
  expect_close(written, wanted.gradients[parameter], what + " as written");
}

void expect_found(
    const Found& found,
    const Found& wanted,
    const Mesh& mesh,
    const Context* shared,
    const std::string& what) {
  const parallel::Group& tensor = mesh.along(Axis::kTensor);
  const auto of_stream = [&](const at::Tensor& rows) {
    return shared == nullptr ? rows : shared->own_rows(rows);
  };
  const at::Tensor hidden_TD = of_stream(wanted.hidden_RD);
  const parallel::Share own = parallel::even_share(hidden_TD.size(0), tensor.rank(), tensor.size());
  expect_close(found.hidden_RD, hidden_TD.narrow(0, own.first, own.count), what + ": hidden");
  expect_close(found.nll_T, of_stream(wanted.nll_T), what + ": nll");
  mesh.along(Axis::kContext).all_reduce_(found.loss);
  expect_close(found.loss, wanted.loss, what + ": loss");
  for (std::size_t i = 0; i < found.gradients.size(); ++i) {
    expect_pieces(found, i, wanted, mesh, what + ": parameter " + std::to_string(i));
  }
}

struct Shape {
  int tp;
  int cp = 1;
};

void expect_equals_one_rank(
    const ModelConfig& config,
    const Shape& shape,
    const std::vector<std::int64_t>& lengths = {17, 1, 0, 30, 2, 11},
    const ContextRules& rules = {}) {
  const SequenceLayout stream = make_layout_from_lengths(lengths);
  const Found wanted = work_on(config, stream, {});
  parallel::run_ranks({{shape.tp, shape.cp, 1, 1}}, [&](const Mesh& mesh) {
    c10::intrusive_ptr<Context> shared;
    if (shape.cp > 1) {
      shared = c10::make_intrusive<Context>(stream, mesh.along(Axis::kContext), rules, at::kCPU);
    }
    const Found found = work_on(config, stream, {mesh.along(Axis::kTensor), shared.get()});
    expect_found(
        found,
        wanted,
        mesh,
        shared.get(),
        config.pattern + ", rank " + std::to_string(mesh.rank()) + " of tp " +
            std::to_string(shape.tp) + ", cp " + std::to_string(shape.cp));
  });
}

TEST(TensorParallel, MlpEqualsOneRank) {
  for (const char* activation : {"squared_relu", "gelu", "swiglu"}) {
    ModelConfig config = tiny_config("--");
    config.mlp.activation = activation;
    config.mlp.bias = true;
    for (const int tp : {2, 3, 4}) {
      expect_equals_one_rank(config, {tp});
    }
  }
}

TEST(TensorParallel, AttentionEqualsOneRank) {
  ModelConfig config = tiny_config("**");
  config.attention.bias = true;
  config.attention.query_key_norm = true;
  for (const int tp : {2, 3, 4}) {
    expect_equals_one_rank(config, {tp});
  }
}

TEST(TensorParallel, FewerHeadsOfKeysThanRanks) {
  ModelConfig config = tiny_config("*-");
  config.attention.bias = true;
  config.attention.query_key_norm = true;
  for (const std::int64_t heads : {1, 2, 4}) {
    config.attention.num_kv_heads = heads;
    expect_equals_one_rank(config, {2});
    expect_equals_one_rank(config, {4});
  }
}

TEST(TensorParallel, MixerEqualsOneRank) {
  ModelConfig config = tiny_config("MM");
  config.mamba.bias = true;
  for (const int tp : {2, 3, 4}) {
    expect_equals_one_rank(config, {tp});
  }
  config.mamba.d_per_channel = true;
  config.mamba.gate_first = false;
  config.mamba.conv_bias = false;
  expect_equals_one_rank(config, {2});
  config.mamba.norm = false;
  expect_equals_one_rank(config, {2});
}

TEST(TensorParallel, GroupsOfTheScan) {
  ModelConfig config = tiny_config("M");
  config.mamba.num_heads = 8;
  for (const std::int64_t groups : {1, 2, 4, 8}) {
    config.mamba.num_groups = groups;
    expect_equals_one_rank(config, {2});
    expect_equals_one_rank(config, {4});
  }
}

// Groups of the norm within a rank, as large as a rank's channels, larger, and across the cuts.
TEST(TensorParallel, GroupsOfTheNorm) {
  ModelConfig config = tiny_config("M");
  config.mamba.num_groups = 1;
  for (const bool gate_first : {true, false}) {
    config.mamba.gate_first = gate_first;
    for (const std::int64_t groups : {1, 2, 3, 4, 5, 12, 60}) {
      config.mamba.norm_groups = groups;
      for (const int tp : {2, 3, 4}) {
        expect_equals_one_rank(config, {tp});
      }
    }
  }
}

TEST(TensorParallel, TiedAndUntied) {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_config("M*-M");
    config.mamba.num_groups = 2;
    config.attention.num_kv_heads = 2;
    config.tied = tied;
    config.embedding_multiplier = 1.5;
    config.residual_multiplier = 0.7;
    config.logits_divisor = 2.0;
    config.residual_fp32 = tied;
    for (const int tp : {1, 2, 4}) {
      expect_equals_one_rank(config, {tp});
    }
  }
}

TEST(TensorParallel, FewTokens) {
  for (const std::int64_t tokens : {0, 1, 2, 3, 4, 5}) {
    expect_equals_one_rank(tiny_config("M*-"), {4}, {tokens});
  }
}

TEST(TensorParallel, WithinContextParallelRanks) {
  ModelConfig config = tiny_config("M*-M");
  config.mamba.num_groups = 2;
  config.attention.num_kv_heads = 2;
  const ContextRules ring{ContextStrategy::kBaton, KeyExchange::kRing};
  for (const ContextRules& rules : {ContextRules{}, ring, {ContextStrategy::kAllToAll}}) {
    expect_equals_one_rank(config, {2, 2}, {17, 1, 0, 30, 2, 11}, rules);
    expect_equals_one_rank(config, {2, 2}, {3, 4}, rules);
  }
}

TEST(TensorParallel, LossWithoutGradients) {
  const ModelConfig config = tiny_config("-");
  const SequenceLayout stream = make_layout_from_lengths({9, 8});
  const nn::StepContext context{.layout = stream, .positions_T = stream.positions()};
  const at::Tensor tokens = random_ids(5, 17, config.vocabulary);
  const auto loss_of = [&](const parallel::Group& ranks) {
    const at::NoGradGuard no_grad;
    HybridModel model(config, ranks);
    model.parameters().initialize(3, at::kDouble, at::kCPU);
    return model.loss(model.hidden(tokens, context), tokens, std::nullopt);
  };
  const nn::LossOutput wanted = loss_of({});
  parallel::run_ranks({{3, 1, 1, 1}}, [&](const Mesh& mesh) {
    const nn::LossOutput found = loss_of(mesh.along(Axis::kTensor));
    expect_close(found.loss_sum, wanted.loss_sum, "loss");
    expect_close(found.nll_T, wanted.nll_T, "nll");
  });
}

TEST(TensorParallel, RefusesTokensAndLabelsOutsideTheVocabulary) {
  const ModelConfig config = tiny_config("-");
  const SequenceLayout stream = make_layout_from_lengths({3});
  const nn::StepContext context{.layout = stream, .positions_T = stream.positions()};
  const at::Tensor right = random_ids(5, 3, config.vocabulary);
  const at::Tensor wrong = at::full({3}, config.vocabulary, at::kLong);
  parallel::run_ranks({{2, 1, 1, 1}}, [&](const Mesh& mesh) {
    HybridModel model(config, mesh.along(Axis::kTensor));
    model.parameters().initialize(3, at::kDouble, at::kCPU);
    EXPECT_THROW(model.hidden(wrong, context), c10::Error);
    const at::Tensor hidden = model.hidden(right, context);
    EXPECT_THROW(model.loss(hidden, wrong, std::nullopt), c10::Error);
  });
}

/// What a model says that cannot be divided among so many ranks.
std::string refusal(const ModelConfig& config, int tp) {
  try {
    HybridModel model(config, parallel::Group("tp", 0, tp, nullptr));
  } catch (const c10::Error& error) {
    return error.msg();
  }
  return "none";
}

TEST(TensorParallel, RefusesWhatDoesNotDivide) {
  ModelConfig config = tiny_config("M");
  config.mamba.num_groups = 6;
  config.vocabulary = 100;
  EXPECT_EQ(
      refusal(config, 4),
      "model.mamba.num_heads must be a multiple of parallel.tp, and one of num_groups and tp "
      "divide "
      "the other: num_heads 12, num_groups 6, tp 4; the nearest tp that can be is 3");
  EXPECT_THAT(refusal(config, 24), HasSubstr("tp 24; the nearest tp that can be is 12"));
  EXPECT_EQ(refusal(config, 6), "none");
  config = tiny_config("*");
  config.attention.num_kv_heads = 4;
  EXPECT_EQ(
      refusal(config, 3),
      "model.attention.num_heads must be a multiple of parallel.tp, and one of num_kv_heads and tp "
      "divide the other: num_heads 12, num_kv_heads 4, tp 3; the nearest tp that can be is 2");
  EXPECT_EQ(refusal(config, 12), "none");
  config = tiny_config("-");
  config.mlp.hidden = 3;
  EXPECT_EQ(
      refusal(config, 4),
      "parallel.tp must not exceed model.mlp.hidden: 4 vs 3; the nearest tp that can be is 3");
  EXPECT_EQ(
      refusal(config, 24),
      "parallel.tp must not exceed model.vocabulary: 24 vs 23; the nearest tp that can be is 23");
}

// bf16 on several ranks may be 1.5 times as far from the fp32 run as bf16 on one rank is.
constexpr double kBf16Factor = 1.5;

/// Root of the mean square of what all gradients are off, each in proportion to its size.
double distance(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& wanted) {
  double sum = 0.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const at::Tensor exact = wanted[i].to(at::kDouble);
    sum += ((found[i].to(at::kDouble) - exact).pow(2).sum() / exact.pow(2).sum().clamp_min(1e-30))
               .item<double>();
  }
  return std::sqrt(sum / static_cast<double>(wanted.size()));
}

/// The gradients of whole parameters, fp32.
std::vector<at::Tensor> joined(const Found& found, const Found& like, const Mesh& mesh) {
  std::vector<at::Tensor> whole;
  for (std::size_t i = 0; i < found.gradients.size(); ++i) {
    whole.push_back(at::zeros(like.gradients[i].sizes(), at::kFloat));
    for (const nn::ParameterPiece& piece : found.pieces[i]) {
      if (piece.holder == 0) {
        piece.of_whole(whole.back()).copy_(piece.of(found.gradients[i]));
      }
    }
    mesh.along(Axis::kTensor).all_reduce_(whole.back());
  }
  return whole;
}

TEST(TensorParallel, InBf16IsAsCloseToFp32AsOneRank) {
  ModelConfig config = tiny_config("M*-M*-");
  config.width = 48;
  config.mamba.num_groups = 1;
  config.attention.num_kv_heads = 2;
  config.dtype = "fp32";
  const SequenceLayout stream = make_layout_from_lengths({300, 17, 195});
  const Found exact = work_on(config, stream, {});
  config.dtype = "bf16";
  const double alone = distance(work_on(config, stream, {}).gradients, exact.gradients);
  for (const int tp : {2, 4}) {
    parallel::run_ranks({{tp, 1, 1, 1}}, [&](const Mesh& mesh) {
      const Found found = work_on(config, stream, {mesh.along(Axis::kTensor)});
      const double shared = distance(joined(found, exact, mesh), exact.gradients);
      if (mesh.rank() == 0) {
        RecordProperty("off_on_one_rank", std::to_string(alone));
        RecordProperty("off_on_" + std::to_string(tp), std::to_string(shared));
      }
      EXPECT_LE(shared, kBf16Factor * alone);
    });
  }
}

/// Bytes that rank 0 of a model sends, forward and backward.
parallel::Traffic traffic_of(const ModelConfig& config, std::int64_t tokens, int tp) {
  parallel::Traffic sent;
  const SequenceLayout stream = make_layout_from_lengths({tokens});
  parallel::run_ranks({{tp, 1, 1, 1}}, [&](const Mesh& mesh) {
    work_on(config, stream, {mesh.along(Axis::kTensor)});
    if (mesh.rank() == 0) {
      sent = mesh.along(Axis::kTensor).traffic();
    }
  });
  return sent;
}

// Whatever a layer is, it gathers and scatters rows once in each direction, and gathers its input
// once more in the backward pass.
TEST(TensorParallel, TrafficOfALayer) {
  constexpr int kRanks = 4;
  constexpr std::int64_t kTokens = 32;
  const std::int64_t once =
      8 * (kRanks - 1) * kTokens / kRanks * tiny_config("").width; // rows that do not stay
  // The gradient of a norm, which all ranks hold: of each layer, and the final one.
  const std::int64_t norm = 8 * (kRanks - 1) * tiny_config("").width;
  // The embedding's gradient, the head's input, and three numbers a token of the loss.
  const std::int64_t gathered = 2 * once + 8 * 3 * kTokens * (kRanks - 1) + norm;
  for (const char* layer : {"M", "*", "-"}) {
    const parallel::Traffic one = traffic_of(tiny_config(layer), kTokens, kRanks);
    const parallel::Traffic two =
        traffic_of(tiny_config(std::string(layer) + layer), kTokens, kRanks);
    EXPECT_EQ(one.all_gather, gathered + 3 * once + norm) << layer;
    EXPECT_EQ(one.all_to_all, 2 * once + 2 * once) << layer;
    EXPECT_EQ(two.all_gather - one.all_gather, 3 * once + norm) << layer;
    EXPECT_EQ(two.all_to_all - one.all_to_all, 2 * once) << layer;
  }
}

// A norm over the ranks adds a number a token and group, once in each direction.
TEST(TensorParallel, TrafficOfANormOverTheRanks) {
  constexpr int kRanks = 4;
  constexpr std::int64_t kTokens = 32;
  ModelConfig config = tiny_config("M");
  const std::int64_t within = traffic_of(config, kTokens, kRanks).all_reduce;
  config.mamba.norm_groups = 2;
  const std::int64_t groups = 2;
  const std::int64_t once = 2 * (kRanks - 1) * 8 * groups * kTokens / kRanks;
  EXPECT_EQ(traffic_of(config, kTokens, kRanks).all_reduce - within, 2 * once);
}

} // namespace
} // namespace baton::model
