// SPDX-License-Identifier: Apache-2.0
// States from chunk to chunk: forward the states that enter chunks, backward the gradients that
// leave.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/ops/cpu/ssd_plan.h"

namespace baton::ops::cpu {

/// States that sequences start from, per head [P, N].
template <class Real>
struct SsdInitial {
  SsdInitial() = default;
  SsdInitial(const SsdStart& start, std::int64_t num_sequences);

  at::Tensor states_SHPN;          ///< undefined: all start from zero
  std::vector<std::int64_t> slots; ///< per sequence

  bool has(std::int64_t sequence) const { return states_SHPN.defined() && slots[sequence] >= 0; }
  const Real* state(std::int64_t sequence, std::int64_t head) const {
    return states_SHPN.const_data_ptr<Real>() + slots[sequence] * states_SHPN.stride(0) +
           head * states_SHPN.size(2) * states_SHPN.size(3);
  }
};

enum class SsdDirection { kForward, kBackward };

/// What chunks [first, last) add to a state that passes through, states[c - first][h][p][n]:
/// forward sum_j exp(s_end - s_j) dt_j x_j B_j (values x, keys B), backward sum_t exp(s_t) dy_t
/// C_t.
template <class In, class Real>
void add_up_chunks(
    const SsdPlan<Real>& plan,
    SsdDirection direction,
    TokenRows<In> values,
    TokenRows<In> keys,
    std::int64_t first,
    std::int64_t last,
    Real* states);

/// Turns these sums into the states that enter the chunks. `carry` [H, P, N] passes from one window
/// to the next. Writes the states that sequences end with to final_states [B, H, P, N], if given.
template <class Real>
void scan_states(
    const SsdPlan<Real>& plan,
    const SsdInitial<Real>& initial,
    std::int64_t first,
    std::int64_t last,
    Real* states,
    Real* carry,
    Real* final_states);

/// Turns backward sums into gradients of the states that leave the chunks, last chunk first. Starts
/// from dfinal_states [B, H, P, N] (null: zero) and hands the gradient of the state before a
/// sequence to finish(sequence, head, gradient).
template <class Real, class Finish>
void scan_state_gradients(
    const SsdPlan<Real>& plan,
    const Real* dfinal_states,
    std::int64_t first,
    std::int64_t last,
    Real* states,
    Real* carry,
    const Finish& finish) {
  const std::int64_t size = plan.sizes.state_size();
  const std::int64_t H = plan.sizes.H;
  const SsdRows<Real>& loops = ssd_rows<Real>();
  for_each_item(
      H,
      [] { return 0; },
      [&](int, std::int64_t h) {
        Real* gradient = carry + h * size;
        for (std::int64_t c = last - 1; c >= first; --c) {
          const SsdChunk& chunk = plan.chunks[c];
          if (chunk.closes) {
            if (dfinal_states != nullptr) {
              std::copy_n(dfinal_states + (chunk.sequence * H + h) * size, size, gradient);
            } else {
              std::fill_n(gradient, size, Real(0));
            }
          }
          loops.exchange_state(
              size, plan.decay(chunk, h), gradient, states + ((c - first) * H + h) * size);
          if (chunk.opens) {
            finish(chunk.sequence, h, static_cast<const Real*>(gradient));
          }
        }
      });
}

/// The final states of sequences without tokens: their initial ones.
template <class Real>
void finish_empty_sequences(
    const SsdPlan<Real>& plan,
    const SsdInitial<Real>& initial,
    Real* final_states);

} // namespace baton::ops::cpu
