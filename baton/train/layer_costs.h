// SPDX-License-Identifier: Apache-2.0
// What one layer costs one rank in one microbatch: memory kept for the backward pass, operations,
// passes over memory, messages. Formulas only: nothing is built or run.
//
// Letters as in docs/architecture.md: D width, I = H P channels of the mixer, G groups, N state, K
// convolution, C = I + 2 G N its channels, Hq and Hk heads of attention, F the MLP's width, U what
// its first product makes (F, or 2 F for swiglu), V vocabulary. e is the size of an activation. T
// is the rank's tokens, the stream's over cp. With tensor parallelism all but D is a share of 1/tp
// (of G and Hk at least one), and tokens between layers are T / tp: those are written T'.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/model/config.h"
#include "baton/parallel/context.h"

namespace baton::train {

/// Tokens of the scan's chunks.
inline constexpr double kScanChunk = 64.0;
/// Operations of a backward pass for one of the forward's.
inline constexpr double kProductBackward = 2.0;
inline constexpr double kScanBackward = 3.0;
inline constexpr double kAttentionBackward = 2.5;

/// How a microbatch is shared.
struct LayerShare {
  std::int64_t tokens = 0;   ///< of the stream that the cp ranks share
  std::int64_t document = 0; ///< tokens of each document in it
  std::int64_t tp = 1;
  std::int64_t cp = 1;
  parallel::ContextRules rules{};
};

/// [rows, columns] = [rows, depth] [depth, columns]
struct Product {
  double rows = 0.0;
  double depth = 0.0;
  double columns = 0.0;

  double operations() const { return 2.0 * rows * depth * columns; }
};

/// Steps, one after the other, in which what a rank has doubles until it is that of all `ranks`:
/// those of a collective, and of a state's way over the ranks.
double doubling_steps(std::int64_t ranks);

/// What a rank sends along one axis.
struct Messages {
  double bytes = 0.0;
  double steps = 0.0; ///< one after the other, each with a link's latency

  static Messages of_collectives(double count, double bytes, std::int64_t ranks) {
    return {bytes, count * doubling_steps(ranks)};
  }

  Messages& operator+=(const Messages& other) {
    bytes += other.bytes;
    steps += other.steps;
    return *this;
  }
  Messages operator*(double factor) const { return {bytes * factor, steps * factor}; }
};

/// Forward operations; messages of both passes.
struct LayerCosts {
  double kept = 0.0;             ///< bytes from the forward pass to the backward pass
  double transient = 0.0;        ///< bytes at the backward pass's fullest moment beyond these
  std::vector<Product> products; ///< of the forward pass
  double scan = 0.0;             ///< operations of the scan
  double scan_blocks = 0.0;      ///< heads times sequences: what the scan's kernel runs at once
  double sweeps = 0.0;           ///< scans for the state alone, both passes
  double attention = 0.0;        ///< operations of queries with keys and weights with values
  double attended = 0.0;         ///< bytes of a document's keys and values
  double passes = 0.0;           ///< bytes read and written by all other kernels, forward
  double passes_backward = 0.0;
  Messages tensor;
  Messages context;

  double product_operations() const;
  /// Of the forward pass, of all kinds.
  double operations() const { return product_operations() + scan + attention; }
};

/// kept: e (2 T' D + T (2 I + 2 G N + H) + T C + 2 T I): the norm's input and output, in_proj's
/// output (z, x, B, C, dt), the convolved x, B, C, the scan's output and the gated norm's. The
/// baton adds the two states that enter, 8 H P N, and the tails, 2 (K - 1) C e; all-to-all adds the
/// exchanged columns, e T (C + H).
/// products: T D (2 I + 2 G N + H) and T I D, two operations each.
/// scan: T H (4 N P + 2 Q (N + P)), docs/kernels.md.
/// context, baton: per direction the states of docs/parallel.md and tails; all-to-all: what stays
/// not counted, T (C + H + I) e (cp - 1) / cp.
LayerCosts mamba_costs(const model::ModelConfig& model, const LayerShare& share);

/// kept: e (2 T' D + n T (Hq + Hk) P + T (2 Hq + 2 Hk) P) + 4 T Hq, with n 1 where heads are
/// normed and 0 otherwise: norm's input and output, queries, keys, values, output, log-sum-exp.
/// All-to-all adds the output before its way back.
/// products: T D (Hq + 2 Hk) P and T Hq P D.
/// attention: 4 P Hq for each pair of a query and a key that it sees: T (L + 1) / 2 pairs in
/// documents of L tokens.
/// context: keys and values, 2 Hk P e a token, of all others forward, again backward, and their
/// gradients (in fp32 in a ring).
LayerCosts attention_costs(const model::ModelConfig& model, const LayerShare& share);

/// kept: e (2 T' D + T U + T F). products: T D U and T F D.
LayerCosts mlp_costs(const model::ModelConfig& model, const LayerShare& share);

/// kept: the token ids, 8 T. No products.
LayerCosts embedding_costs(const model::ModelConfig& model, const LayerShare& share);

/// Final norm, head and loss. kept: e (3 T' D + V D): the norm's input and output, and the
/// gradients of hidden states and matrix, which the loss makes in the forward pass.
/// products: T D V. transient: logits of a block of tokens and the matrix's gradient, both fp32.
LayerCosts head_costs(const model::ModelConfig& model, const LayerShare& share);

/// The costs of a layer by its symbol. Throws `Error` for a kind that cannot be built.
LayerCosts layer_costs(char symbol, const model::ModelConfig& model, const LayerShare& share);

} // namespace baton::train
