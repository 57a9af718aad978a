// SPDX-License-Identifier: Apache-2.0
#include "baton/model/pipeline_cut.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "baton/base/error.h"
#include "baton/model/pattern.h"

namespace baton::model {
namespace {

// Rates of an H100 (docs/benchmarks), forward and backward together, as factors on what a product
// of matrices of the same count would take. A backward pass is twice a forward pass.
constexpr double kPasses = 3.0;             // of a product: one forward, two backward
constexpr double kValueMoved = 520.0;       // a bf16 value read or written, at the copy rate
constexpr double kAttentionFactor = 4.0;    // on the products of queries, keys and values
constexpr double kScanPerState = 150.0;     // per channel and state value, both passes
constexpr double kCrossEntropyFactor = 1.4; // on the head's products

double product(std::int64_t in, std::int64_t out) {
  return kPasses * 2.0 * static_cast<double>(in) * static_cast<double>(out);
}

double moved(double values) {
  return kPasses * kValueMoved * values;
}

double mamba_cost(const ModelConfig& config) {
  const nn::Mamba2Config& mamba = config.mamba;
  const std::int64_t inner = mamba.inner();
  const std::int64_t channels = inner + 2 * mamba.num_groups * mamba.state_size;
  return product(config.width, inner + channels + mamba.num_heads) + product(inner, config.width) +
         kScanPerState * static_cast<double>(inner * mamba.state_size) +
         moved(static_cast<double>(2 * channels + 3 * inner)); // convolution, gated norm
}

double attention_cost(const ModelConfig& config, std::int64_t tokens) {
  const nn::AttentionConfig& attention = config.attention;
  const std::int64_t queries = attention.num_heads * attention.head_dim;
  const std::int64_t keys = attention.num_kv_heads * attention.head_dim;
  // A token sees half of the tokens, in a product with keys and one with values.
  return product(config.width, queries + 2 * keys) + product(queries, config.width) +
         kAttentionFactor * product(queries, tokens) +
         (attention.rotary.enabled ? moved(static_cast<double>(2 * (queries + keys))) : 0.0);
}

double mlp_cost(const ModelConfig& config) {
  const std::int64_t hidden = config.mlp.hidden;
  const std::int64_t up = config.mlp.activation == "swiglu" ? 2 * hidden : hidden;
  return product(config.width, up) + product(hidden, config.width) +
         moved(static_cast<double>(up + hidden));
}

double layer_cost(const ModelConfig& config, LayerKind kind, std::int64_t tokens) {
  // Norm and residual addition.
  const double around = moved(5.0 * static_cast<double>(config.width));
  switch (kind) {
    case LayerKind::kMamba:
      return around + mamba_cost(config);
    case LayerKind::kAttention:
      return around + attention_cost(config, tokens);
    case LayerKind::kMlp:
      return around + mlp_cost(config);
    default:
      throw Error(
          "model.pattern: layers of kind " + std::string(name_of(kind)) +
          " cannot be built yet, so a pipeline cannot weigh them");
  }
}

/// Cost of layers [begin, end) as one of the stages.
class StageCost {
 public:
  StageCost(const ModelCosts& costs, std::int64_t stages)
      : stages_(stages), embedding_(costs.embedding), head_(costs.head), sums_{0.0} {
    for (const double cost : costs.layers) {
      sums_.push_back(sums_.back() + cost);
    }
  }

  double operator()(std::int64_t stage, std::int64_t begin, std::int64_t end) const {
    return sums_[static_cast<std::size_t>(end)] - sums_[static_cast<std::size_t>(begin)] +
           (stage == 0 ? embedding_ : 0.0) + (stage == stages_ - 1 ? head_ : 0.0);
  }

 private:
  std::int64_t stages_;
  double embedding_;
  double head_;
  std::vector<double> sums_;
};

/// Cost of the slowest stage in the best cut.
double slowest_stage(const StageCost& cost, std::int64_t stages, std::int64_t layers) {
  // best[e]: of the stages so far with layers [0, e).
  std::vector<double> best(static_cast<std::size_t>(layers + 1));
  for (std::int64_t end = 0; end <= layers; ++end) {
    best[static_cast<std::size_t>(end)] = cost(0, 0, end);
  }
  for (std::int64_t stage = 1; stage < stages; ++stage) {
    std::vector<double> next(best.size());
    std::int64_t begin = 0;
    for (std::int64_t end = 0; end <= layers; ++end) {
      // With a later begin the stages before cost more and this one less; the crossing only rises.
      const auto slowest = [&](std::int64_t from) {
        return std::max(best[static_cast<std::size_t>(from)], cost(stage, from, end));
      };
      while (begin < end && slowest(begin + 1) <= slowest(begin)) {
        ++begin;
      }
      next[static_cast<std::size_t>(end)] = slowest(begin);
    }
    best = next;
  }
  return best.back();
}

} // namespace

ModelCosts estimate_costs(const ModelConfig& config, std::int64_t tokens) {
  ModelCosts costs;
  for (const char symbol : parse_pattern(config.pattern).layers) {
    costs.layers.push_back(layer_cost(config, kind_of(symbol).value(), tokens));
  }
  costs.embedding = moved(2.0 * static_cast<double>(config.width));
  costs.head = kCrossEntropyFactor * product(config.width, config.vocabulary) +
               moved(3.0 * static_cast<double>(config.width));
  return costs;
}

std::vector<std::int64_t> cut_layers(const ModelCosts& costs, std::int64_t stages) {
  const auto layers = static_cast<std::int64_t>(costs.layers.size());
  const StageCost cost(costs, stages);
  // Sums in another order must not shut out the best cut itself.
  const double limit = slowest_stage(cost, stages, layers) * (1.0 + 1e-12);
  constexpr double kNever = std::numeric_limits<double>::infinity();
  const auto size = static_cast<std::size_t>(layers + 1);
  // squares[e]: the smallest sum of squares of the stages so far with layers [0, e).
  std::vector<double> squares(size, kNever);
  squares[0] = 0.0;
  std::vector<std::vector<std::int64_t>> begins;
  for (std::int64_t stage = 0; stage < stages; ++stage) {
    std::vector<double> next(size, kNever);
    std::vector<std::int64_t>& begin_of = begins.emplace_back(size, 0);
    for (std::int64_t end = 0; end <= layers; ++end) {
      const auto place = static_cast<std::size_t>(end);
      for (std::int64_t begin = end; begin >= 0 && cost(stage, begin, end) <= limit; --begin) {
        const double own = cost(stage, begin, end);
        const double sum = squares[static_cast<std::size_t>(begin)] + own * own;
        if (sum < next[place]) {
          next[place] = sum;
          begin_of[place] = begin;
        }
      }
    }
    squares = next;
  }
  std::vector<std::int64_t> counts(static_cast<std::size_t>(stages));
  for (std::int64_t stage = stages, end = layers; stage-- > 0;) {
    const auto place = static_cast<std::size_t>(stage);
    const std::int64_t begin = begins[place][static_cast<std::size_t>(end)];
    counts[place] = end - begin;
    end = begin;
  }
  return counts;
}

std::string resolve_pipes(const ModelConfig& config, const PipelineCut& cut) {
  LayerPattern pattern = parse_pattern(config.pattern);
  const std::int64_t stages = cut.ranks * cut.virtual_stages;
  if (stages == 1) {
    return config.pattern;
  }
  if (!pattern.has_pipes()) {
    pattern.segments.clear();
    std::size_t offset = 0;
    for (const std::int64_t count :
         cut_layers(estimate_costs(config, cut.tokens_per_microbatch), stages)) {
      pattern.segments.push_back(pattern.layers.substr(offset, static_cast<std::size_t>(count)));
      offset += static_cast<std::size_t>(count);
    }
  }
  PipelineSplit split;
  split.ranks = cut.ranks;
  split.virtual_stages = cut.virtual_stages;
  split_pipeline(pattern, split);
  return pattern.text();
}

parallel::PipelineCosts stage_costs(const ModelConfig& config, const PipelineCut& cut) {
  const ModelCosts costs = estimate_costs(config, cut.tokens_per_microbatch);
  const std::int64_t stages = cut.ranks * cut.virtual_stages;
  PipelineSplit split;
  split.ranks = cut.ranks;
  split.virtual_stages = cut.virtual_stages;
  const StageCost cost(costs, stages);
  parallel::PipelineCosts of_stages;
  for (const PipelineStage& stage : split_pipeline(parse_pattern(config.pattern), split)) {
    const auto number = static_cast<std::int64_t>(of_stages.forward.size());
    const double both =
        cost(number, stage.offset, stage.offset + static_cast<std::int64_t>(stage.layers.size()));
    of_stages.forward.push_back(both / kPasses);
    of_stages.backward.push_back(both - both / kPasses);
  }
  return of_stages;
}

} // namespace baton::model
