// SPDX-License-Identifier: Apache-2.0
// The kernel of one token of the scan: a head of a sequence is an item that threads share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "baton/ops/cpu/ssd_plan.h"

namespace baton::ops::cpu {

/// What the heads of B sequences read and write.
template <class In, class Real>
struct SsdStepTask {
  SsdSizes sizes;
  TokenRows<In> x, b, c;
  const Real* dt_BH; ///< behind bias, softplus and limits
  const Real* A_H;   ///< negative
  const Real* skip;  ///< [H], or [H, P] if `skip_per_channel`; null without one
  bool skip_per_channel;
  Real* states_SHPN;
  std::int64_t slot_stride;
  const std::int64_t* slots; ///< [B]
  In* y_BHP;
};

/// Scratch of a thread, or of an item.
template <class Real>
struct SsdStepRoom {
  /// `values` has room for `size` of them.
  SsdStepRoom(const SsdSizes& sizes, Real* values)
      : y(values),
        x(y + sizes.P + kSsdPadding),
        b(x + sizes.P + kSsdPadding),
        c(b + sizes.N + kSsdPadding) {}

  static std::int64_t size(const SsdSizes& sizes) {
    return 2 * (sizes.P + sizes.N + 2 * kSsdPadding);
  }

  Real *y, *x, *b, *c;
};

/// Item b H + h is head h of sequence b.
template <class In, class Real>
void run_ssd_step_item(
    const SsdStepTask<In, Real>& task,
    const SsdStepRoom<Real>& room,
    std::int64_t item) {
  const auto [B, H, P, G, N, same_B] = task.sizes;
  const std::int64_t row = item / H;
  const std::int64_t h = item % H;
  const SsdChunk token{row, row, 1, true, true};
  const std::int64_t key = h / task.sizes.heads_per_group() * N;
  const ConstTile<Real> x_row = load_tile(task.x, token, h * P, P, room.x);
  const ConstTile<Real> b_row = load_tile(task.b, token, key, N, room.b);
  const ConstTile<Real> c_row = load_tile(task.c, token, key, N, room.c);
  Scratch<Real> zeros; // where there is no slot
  Real* state = nullptr;
  if (task.slots[row] >= 0) {
    state = task.states_SHPN + task.slots[row] * task.slot_stride + h * P * N;
  } else {
    zeros = make_scratch<Real>(P * N);
    state = zeros.get();
    std::fill_n(state, P * N, Real(0));
  }
  const Real step = task.dt_BH[item];
  const Real decay = std::exp(step * task.A_H[h]);
  In* to = task.y_BHP + item * P;
  const Tile<Real> out = output_tile(to, P, P, room.y);
  ssd_rows<Real>().step(P, N, decay, step, x_row.data, b_row.data, c_row.data, state, out.data);
  if (task.skip != nullptr) {
    const Real* skip = task.skip + h * (task.skip_per_channel ? P : 1);
    for (std::int64_t p = 0; p < P; ++p) {
      out.data[p] += skip[task.skip_per_channel ? p : 0] * x_row.data[p];
    }
  }
  store_tile(ConstTile<Real>(out), 1, P, to, P);
}

} // namespace baton::ops::cpu
