// SPDX-License-Identifier: Apache-2.0
#include "baton/train/layer_costs.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "baton/base/error.h"

namespace baton::train {
namespace {

using parallel::ContextStrategy;
using parallel::KeyExchange;

constexpr double kFloatBytes = 4.0;
// Of the loss on a GPU: bytes of fp32 logits of a block, and the tokens it is a multiple of.
constexpr double kLogitBytes = 1024.0 * 1024.0 * 1024.0;
constexpr double kTokenStep = 128.0;
// Hidden states go in and out once in each pass, and the input is gathered again for the weight's
// gradient.
constexpr double kTensorExchanges = 5.0;

/// Sizes that all kinds of layers share.
struct Sizes {
  Sizes(const model::ModelConfig& model, const LayerShare& share)
      : element(static_cast<double>(c10::elementSize(model.scalar_type()))),
        D(static_cast<double>(model.width)),
        tp(static_cast<double>(share.tp)),
        cp(static_cast<double>(share.cp)),
        stream(static_cast<double>(share.tokens)),
        T(stream / cp),
        between(T / tp) {}

  double element;
  double D;
  double tp, cp;
  double stream;  ///< tokens of all cp ranks
  double T;       ///< tokens of a rank inside of layers
  double between; ///< tokens of a rank between layers

  /// Groups of a rank, or heads of keys; neighbours hold the same one where there are fewer.
  double shared_heads(std::int64_t all) const {
    return std::max(1.0, static_cast<double>(all) / tp);
  }

  double of_others(double ranks) const { return (ranks - 1.0) / ranks; }

  /// Bytes of adding up the rows that ranks of tp scatter: read, written in fp32, rounded.
  double scattered_sums() const {
    return tp == 1.0
               ? 0.0
               : element * T * D +
                     (element < kFloatBytes ? 2.0 * kFloatBytes + element : element) * between * D;
  }

  Messages hidden_exchanges(double count) const {
    return Messages::of_collectives(
        count, count * of_others(tp) * T * D * element, static_cast<std::int64_t>(tp));
  }
};

/// What every layer has around its inside: a norm, two products, a sum with the residual.
LayerCosts frame_costs(const Sizes& s, double first_out, double second_in) {
  LayerCosts costs;
  costs.kept = s.element * 2.0 * s.between * s.D;
  costs.transient = s.element * (2.0 * s.between * s.D + s.D * std::max(first_out, second_in)) +
                    (s.tp > 1.0 ? s.element * s.T * s.D : 0.0);
  costs.products = {{s.T, s.D, first_out}, {s.T, second_in, s.D}};
  // Norm 2, sum 3; backward: norm 3, sum of the two gradients of the residual 3.
  costs.passes = s.element * s.between * 5.0 * s.D + s.scattered_sums();
  costs.passes_backward = s.element * s.between * 6.0 * s.D + s.scattered_sums();
  costs.tensor = s.hidden_exchanges(kTensorExchanges);
  return costs;
}

/// States that the rank sends which sends most: one up and two down in each round, to ranks that
/// there are (docs/parallel.md).
double states_sent(std::int64_t cp) {
  std::int64_t most = 0;
  for (std::int64_t rank = 0; rank < cp; ++rank) {
    std::int64_t sent = 0;
    for (std::int64_t distance = 1; distance < cp; distance *= 2) {
      sent += (rank >= distance ? 2 : 0) + (rank + distance < cp ? 1 : 0);
    }
    most = std::max(most, sent);
  }
  return static_cast<double>(most);
}

} // namespace

double doubling_steps(std::int64_t ranks) {
  return static_cast<double>(std::bit_width(static_cast<std::uint64_t>(ranks - 1)));
}

double LayerCosts::product_operations() const {
  double sum = 0.0;
  for (const Product& product : products) {
    sum += product.operations();
  }
  return sum;
}

LayerCosts mamba_costs(const model::ModelConfig& model, const LayerShare& share) {
  const Sizes s(model, share);
  const nn::Mamba2Config& config = model.mamba;
  const double H = static_cast<double>(config.num_heads) / s.tp;
  const auto P = static_cast<double>(config.head_dim);
  const auto N = static_cast<double>(config.state_size);
  const double inner = H * P;
  const double C = inner + 2.0 * s.shared_heads(config.num_groups) * N;
  const double e = s.element;
  const bool shared = s.cp > 1.0;
  const bool by_baton = shared && share.rules.strategy == ContextStrategy::kBaton;
  // Of the whole mixer, where neither its tokens nor the gated norm's groups go over ranks.
  const bool one_operator = !shared && (!config.norm || config.norm_group_count() % share.tp == 0);

  LayerCosts costs = frame_costs(s, inner + C + H, inner);
  costs.kept += e * s.T * ((inner + C + H) + C + 2.0 * inner);
  // Gradients of y, of the gated norm's output, of the convolution's, and of in_proj's output,
  // whose columns one operator writes where they belong; otherwise they are made apart and then
  // joined. States into chunks and their gradients.
  const double projected = (one_operator ? 1.0 : 2.0) * (inner + C + H);
  costs.transient +=
      e * s.T * (2.0 * inner + C + projected) + 2.0 * e * (s.T / kScanChunk) * H * P * N;
  costs.scan = s.T * H * (4.0 * N * P + 2.0 * kScanChunk * (N + P));
  const auto document = static_cast<double>(share.document);
  // By all-to-all a rank scans the whole stream for its part of the heads.
  costs.scan_blocks = shared && !by_baton ? H / s.cp * std::max(s.stream / document, 1.0)
                                          : H * std::max(s.T / document, by_baton ? 2.0 : 1.0);
  costs.passes += e * s.T * (2.0 * C + 3.0 * inner);
  costs.passes_backward += e * s.T * (9.0 * C + 7.0 * inner + 4.0 * H);
  if (by_baton) {
    const double tails = 2.0 * static_cast<double>(config.conv_width - 1) * C;
    const double state = kFloatBytes * H * (P * N + 1.0);
    costs.kept += 2.0 * kFloatBytes * H * P * N + e * tails;
    costs.sweeps = 2.0;
    // Of each pass: the states' way, and the tails gathered.
    costs.context = {
        2.0 * (states_sent(share.cp) * state + (s.cp - 1.0) * tails * e),
        2.0 * (doubling_steps(share.cp) + doubling_steps(share.cp))};
  } else if (shared) {
    costs.kept += e * s.T * (C + H);
    costs.passes += e * s.T * 4.0 * (C + H + inner);
    costs.passes_backward += e * s.T * 4.0 * (C + H + inner);
    costs.context = Messages::of_collectives(
        4.0, 2.0 * e * s.T * (C + H + inner) * s.of_others(s.cp), share.cp);
  }
  return costs;
}

LayerCosts attention_costs(const model::ModelConfig& model, const LayerShare& share) {
  const Sizes s(model, share);
  const nn::AttentionConfig& config = model.attention;
  const double heads = static_cast<double>(config.num_heads) / s.tp;
  const double Q = heads * static_cast<double>(config.head_dim);
  const double K = s.shared_heads(config.num_kv_heads) * static_cast<double>(config.head_dim);
  const double e = s.element;
  const double normed = config.query_key_norm ? 1.0 : 0.0;
  const double turned = config.rotary.enabled ? 1.0 : 0.0;

  LayerCosts costs = frame_costs(s, Q + 2.0 * K, Q);
  // Three products read the same input, so the gradients of the input are added up.
  costs.products = {{s.T, s.D, Q}, {s.T, s.D, K}, {s.T, s.D, K}, {s.T, Q, s.D}};
  costs.passes_backward += e * s.T * 6.0 * s.D;
  costs.kept += e * s.T * ((1.0 + normed) * (Q + K) + K + Q) + kFloatBytes * s.T * heads;
  costs.transient += e * s.T * (3.0 * Q + 4.0 * K);
  costs.attention = 2.0 * Q * s.T * (static_cast<double>(share.document) + 1.0);
  costs.attended = 2.0 * K * static_cast<double>(share.document) * e;
  costs.passes += e * s.T * 2.0 * (normed + turned) * (Q + K);
  costs.passes_backward += e * s.T * (3.0 * normed + 2.0 * turned) * (Q + K);
  if (s.cp == 1.0) {
    return costs;
  }
  if (share.rules.strategy == ContextStrategy::kAllToAll) {
    costs.kept += e * s.T * Q;
    costs.context = Messages::of_collectives(
        4.0, 2.0 * e * s.T * (2.0 * Q + 2.0 * K) * s.of_others(s.cp), share.cp);
    return costs;
  }
  const double keys = 2.0 * K * s.T; // of one rank
  const double others = s.cp - 1.0;
  if (share.rules.keys == KeyExchange::kGather) {
    costs.transient += (e + kFloatBytes) * keys * s.cp;
    costs.context = Messages::of_collectives(3.0, 3.0 * others * e * keys, share.cp);
  } else {
    costs.transient += (2.0 * e + 2.0 * kFloatBytes) * keys;
    costs.context = {(2.0 * others * e + s.cp * kFloatBytes) * keys, 2.0 * others + s.cp};
  }
  return costs;
}

LayerCosts mlp_costs(const model::ModelConfig& model, const LayerShare& share) {
  const Sizes s(model, share);
  const double hidden = static_cast<double>(model.mlp.hidden) / s.tp;
  const double up = model.mlp.activation == "swiglu" ? 2.0 * hidden : hidden;
  LayerCosts costs = frame_costs(s, up, hidden);
  costs.kept += s.element * s.T * (up + hidden);
  costs.transient += s.element * s.T * (up + hidden);
  costs.passes += s.element * s.T * (up + hidden);
  costs.passes_backward += s.element * s.T * (2.0 * up + hidden);
  return costs;
}

LayerCosts embedding_costs(const model::ModelConfig& model, const LayerShare& share) {
  const Sizes s(model, share);
  const double matrix = static_cast<double>(model.vocabulary) / s.tp * s.D;
  LayerCosts costs;
  costs.kept = static_cast<double>(sizeof(std::int64_t)) * s.T;
  costs.transient = s.element * matrix;
  costs.passes = s.element * 2.0 * s.T * s.D + s.scattered_sums();
  costs.passes_backward = s.element * (matrix + 2.0 * s.T * s.D);
  costs.tensor = s.hidden_exchanges(2.0);
  return costs;
}

LayerCosts head_costs(const model::ModelConfig& model, const LayerShare& share) {
  const Sizes s(model, share);
  const double e = s.element;
  const double V = static_cast<double>(model.vocabulary) / s.tp;
  const double wanted = std::floor(kLogitBytes / (kFloatBytes * V) / kTokenStep) * kTokenStep;
  const double block = std::min(s.T, std::max(wanted, kTokenStep));
  const double blocks = std::ceil(s.T / block);
  LayerCosts costs;
  costs.kept = e * (3.0 * s.between * s.D + V * s.D);
  costs.transient = kFloatBytes * block * V + (blocks > 1.0 ? kFloatBytes : e) * V * s.D;
  costs.products = {{s.T, s.D, V}};
  // Norm; logits written and read in fp32, their gradients written once and read twice; the
  // matrix's gradient read and written for each block.
  costs.passes = e * 2.0 * s.between * s.D + s.T * V * (2.0 * kFloatBytes + 3.0 * e) +
                 2.0 * kFloatBytes * blocks * V * s.D + s.scattered_sums();
  costs.passes_backward = e * (5.0 * s.between * s.D + 2.0 * V * s.D);
  // Hidden states in, their gradient out, and of each token three numbers in fp32.
  costs.tensor = s.hidden_exchanges(2.0);
  costs.tensor += Messages::of_collectives(3.0, 3.0 * kFloatBytes * s.T * (s.tp - 1.0), share.tp);
  return costs;
}

LayerCosts layer_costs(char symbol, const model::ModelConfig& model, const LayerShare& share) {
  switch (symbol) {
    case 'M':
      return mamba_costs(model, share);
    case '*':
      return attention_costs(model, share);
    case '-':
      return mlp_costs(model, share);
    default:
      throw Error(
          std::string("model.pattern: '") + symbol +
          "' is a kind of layer that cannot be built yet");
  }
}

} // namespace baton::train
