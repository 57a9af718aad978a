// SPDX-License-Identifier: Apache-2.0
// Gradients of the chunked scan: what every chunk gives, once the states are known on both its
// sides.
#pragma once

#include <algorithm>
#include <cstdint>

#include "baton/ops/cpu/ssd_sweep.h"
#include "baton/ops/cpu/tile_product.h"

namespace baton::ops::cpu {

/// Scratch of one thread. Q tokens of a chunk.
template <class Real>
struct GradientWorker {
  Scratch<Real> b, c, db, dc;                               // [Q, N]
  Scratch<Real> scores, score_gradients, products, weights; // [Q, Q]
  Scratch<Real> x, dy, u, scaled, dx;                       // [Q, heads of a block * P]
  Scratch<Real> dc_head;                                    // [Q, N]
  Scratch<Real> decay, to_end, inputs, column_sums, crossing, carried, left; // [Q]
};

/// A forward sweep makes the states that enter all chunks (4 H P N bytes a chunk, 8 for fp64: the
/// memory of the backward); then, by windows from the last to the first, a backward sweep makes the
/// gradients of the states that leave the chunks, and all chunks of the window give their gradients
/// in parallel.
template <class In, class Real>
class SsdChunkGradients {
 public:
  SsdChunkGradients(
      const SsdPlan<Real>& plan,
      const SsdInitial<Real>& initial,
      const SsdInputs& inputs,
      const at::Tensor& dy)
      : plan_(plan),
        initial_(initial),
        loops_(ssd_rows<Real>()),
        skip_HP_(expanded_skip<Real>(inputs.D, plan.sizes)),
        x_owner_(with_dense_rows(inputs.x_THP)),
        b_owner_(with_dense_rows(inputs.B_TGN)),
        c_owner_(with_dense_rows(inputs.C_TGN)),
        dy_owner_(with_dense_rows(dy)),
        x_(token_rows<In>(x_owner_)),
        b_(token_rows<In>(b_owner_)),
        c_(token_rows<In>(c_owner_)),
        dy_(token_rows<In>(dy_owner_)) {
    const auto options = plan.dt_HT.options();
    const auto [T, H, P, G, N, B] = plan.sizes;
    dx = at::empty({T, H, P}, x_owner_.options());
    db = at::empty({T, G, N}, x_owner_.options());
    dc = at::empty({T, G, N}, x_owner_.options());
    ddt_HT = at::empty({H, T}, options);
    dlog_HT = at::empty({H, T}, options);
    if (skip_HP_.defined()) {
      dskip_CHP_ = at::zeros({static_cast<std::int64_t>(plan.chunks.size()), H, P}, options);
    }
  }

  /// `dfinal` may be null; `dinitial` [S, H, P, N] is added to, and null where there are no states.
  void run(const Real* dfinal, Real* dinitial) {
    const std::int64_t num_chunks = static_cast<std::int64_t>(plan_.chunks.size());
    const std::int64_t window = std::min(plan_.window(), num_chunks);
    const std::int64_t size = plan_.sizes.H * plan_.sizes.state_size();
    const Scratch<Real> states = make_scratch<Real>(num_chunks * size);
    const Scratch<Real> gradients = make_scratch<Real>(window * size);
    const Scratch<Real> carry = make_scratch<Real>(size);
    sweep_forward(window, states.get(), carry.get());
    for (std::int64_t last = num_chunks; last > 0; last -= std::min(window, last)) {
      const std::int64_t first = std::max<std::int64_t>(last - window, 0);
      add_up_chunks(plan_, SsdDirection::kBackward, dy_, c_, first, last, gradients.get());
      scan_state_gradients(
          plan_,
          dfinal,
          first,
          last,
          gradients.get(),
          carry.get(),
          [&](std::int64_t sequence, std::int64_t head, const Real* gradient) {
            add_to_initial(dinitial, sequence, head, gradient);
          });
      const std::int64_t G = plan_.sizes.G;
      for_each_item(
          (last - first) * G,
          [&] { return make_worker(); },
          [&](const GradientWorker<Real>& worker, std::int64_t item) {
            const std::int64_t c = first + item / G;
            const bool any_final = dfinal != nullptr || !plan_.chunks[c].closes;
            write_group(
                worker,
                c,
                item % G,
                states.get() + c * size,
                any_final ? gradients.get() + (c - first) * size : nullptr);
          });
    }
    for (std::int64_t b = 0; b < plan_.sizes.B; ++b) {
      for (std::int64_t h = 0; h < plan_.sizes.H && plan_.starts[b] == plan_.starts[b + 1]; ++h) {
        if (dfinal != nullptr) {
          add_to_initial(
              dinitial, b, h, dfinal + (b * plan_.sizes.H + h) * plan_.sizes.state_size());
        }
      }
    }
  }

  /// Sum over tokens of dy x, [H, P]; undefined without D.
  at::Tensor skip_gradient() const {
    if (!skip_HP_.defined()) {
      return {};
    }
    const auto [T, H, P, G, N, B] = plan_.sizes;
    at::Tensor sum_HP = at::zeros({H, P}, dskip_CHP_.options());
    for (std::int64_t c = 0; c < dskip_CHP_.size(0); ++c) {
      sum_HP.add_(dskip_CHP_.select(0, c));
    }
    return sum_HP;
  }

  at::Tensor dx, db, dc;
  at::Tensor ddt_HT;  ///< gradient of the used dt, without its part in the decays
  at::Tensor dlog_HT; ///< gradient of dt A

 private:
  GradientWorker<Real> make_worker() const {
    const auto keys = [&] { return make_scratch<Real>(kSsdChunk * plan_.sizes.N); };
    const auto square = [] { return make_scratch<Real>(kSsdChunk * kSsdChunk); };
    const auto tile = [&] {
      return make_scratch<Real>(kSsdChunk * plan_.head_block() * plan_.sizes.P);
    };
    const auto row = [] { return make_scratch<Real>(kSsdChunk); };
    return {keys(),   keys(), keys(), keys(), square(), square(), square(),
            square(), tile(), tile(), tile(), tile(),   tile(),   keys(),
            row(),    row(),  row(),  row(),  row(),    row(),    row()};
  }

  void sweep_forward(std::int64_t window, Real* states, Real* carry) {
    const std::int64_t num_chunks = static_cast<std::int64_t>(plan_.chunks.size());
    const std::int64_t size = plan_.sizes.H * plan_.sizes.state_size();
    for (std::int64_t first = 0; first < num_chunks; first += window) {
      const std::int64_t last = std::min(first + window, num_chunks);
      add_up_chunks(plan_, SsdDirection::kForward, x_, b_, first, last, states + first * size);
      scan_states<Real>(plan_, initial_, first, last, states + first * size, carry, nullptr);
    }
  }

  void add_to_initial(
      Real* dinitial,
      std::int64_t sequence,
      std::int64_t head,
      const Real* gradient) const {
    if (dinitial == nullptr || !initial_.has(sequence)) {
      return;
    }
    const std::int64_t size = plan_.sizes.state_size();
    Real* to = dinitial + (initial_.slots[sequence] * plan_.sizes.H + head) * size;
    for (std::int64_t i = 0; i < size; ++i) {
      to[i] += gradient[i];
    }
  }

  void write_group(
      const GradientWorker<Real>& worker,
      std::int64_t chunk_index,
      std::int64_t group,
      const Real* states_HPN,
      const Real* gradients_HPN) {
    const SsdChunk& chunk = plan_.chunks[chunk_index];
    const std::int64_t Q = chunk.rows;
    const std::int64_t N = plan_.sizes.N;
    const std::int64_t stride = plan_.sizes.G * N;
    const ConstTile<Real> b = load_tile(b_, chunk, group * N, N, worker.b.get());
    const ConstTile<Real> c = load_tile(c_, chunk, group * N, N, worker.c.get());
    In* db_out = db.mutable_data_ptr<In>() + chunk.first * stride + group * N;
    In* dc_out = dc.mutable_data_ptr<In>() + chunk.first * stride + group * N;
    const Tile<Real> db_tile = output_tile(db_out, stride, N, worker.db.get());
    const Tile<Real> dc_tile = output_tile(dc_out, stride, N, worker.dc.get());
    for (std::int64_t r = 0; r < Q; ++r) {
      std::fill_n(db_tile.data + r * db_tile.stride, N, Real(0));
      std::fill_n(dc_tile.data + r * dc_tile.stride, N, Real(0));
    }
    std::fill_n(worker.score_gradients.get(), kSsdChunk * kSsdChunk, Real(0));
    product(
        Side::kPlain,
        Side::kTransposed,
        Q,
        Q,
        N,
        c.data,
        c.stride,
        b.data,
        b.stride,
        false,
        worker.scores.get(),
        kSsdChunk);
    const std::int64_t group_heads = plan_.sizes.heads_per_group();
    for (std::int64_t begin = 0; begin < group_heads; begin += plan_.head_block()) {
      const std::int64_t heads = std::min(plan_.head_block(), group_heads - begin);
      write_heads(
          worker,
          chunk_index,
          b,
          c,
          db_tile,
          dc_tile,
          group * group_heads + begin,
          heads,
          states_HPN,
          gradients_HPN);
    }
    const Real* gradient = worker.score_gradients.get();
    product(
        Side::kPlain,
        Side::kPlain,
        Q,
        N,
        Q,
        gradient,
        kSsdChunk,
        b.data,
        b.stride,
        true,
        dc_tile.data,
        dc_tile.stride);
    product(
        Side::kTransposed,
        Side::kPlain,
        Q,
        N,
        Q,
        gradient,
        kSsdChunk,
        c.data,
        c.stride,
        true,
        db_tile.data,
        db_tile.stride);
    store_tile(ConstTile<Real>(db_tile), Q, N, db_out, stride);
    store_tile(ConstTile<Real>(dc_tile), Q, N, dc_out, stride);
  }

  // With g the gradient of the state that leaves the chunk:
  //   u_j = exp(s_end - s_j) g B_j + sum_{t >= j} (C_t . B_j) exp(s_t - s_j) dy_t,  dx_j = dt_j u_j
  void write_heads(
      const GradientWorker<Real>& worker,
      std::int64_t chunk_index,
      ConstTile<Real> b,
      ConstTile<Real> c,
      Tile<Real> db_tile,
      Tile<Real> dc_tile,
      std::int64_t head,
      std::int64_t heads,
      const Real* states_HPN,
      const Real* gradients_HPN) {
    const SsdChunk& chunk = plan_.chunks[chunk_index];
    const std::int64_t P = plan_.sizes.P;
    const std::int64_t N = plan_.sizes.N;
    const std::int64_t columns = heads * P;
    const std::int64_t stride = plan_.sizes.H * P;
    const ConstTile<Real> x = load_tile(x_, chunk, head * P, columns, worker.x.get());
    const ConstTile<Real> dy = load_tile(dy_, chunk, head * P, columns, worker.dy.get());
    const Tile<Real> u{worker.u.get(), columns};
    const Tile<Real> scaled{worker.scaled.get(), columns};
    In* dx_out = dx.mutable_data_ptr<In>() + chunk.first * stride + head * P;
    const Tile<Real> dx_tile = output_tile(dx_out, stride, columns, worker.dx.get());
    if (gradients_HPN != nullptr) {
      product(
          Side::kPlain,
          Side::kTransposed,
          chunk.rows,
          columns,
          N,
          b.data,
          b.stride,
          gradients_HPN + head * P * N,
          N,
          false,
          u.data,
          u.stride);
    }
    for (std::int64_t i = 0; i < heads; ++i) {
      const auto at_head = [&](auto tile) {
        tile.data += i * P;
        return tile;
      };
      const std::int64_t state_offset = (head + i) * P * N;
      write_head(
          worker,
          chunk_index,
          head + i,
          c,
          dc_tile,
          at_head(x),
          at_head(dy),
          at_head(u),
          at_head(scaled),
          at_head(dx_tile),
          states_HPN + state_offset,
          gradients_HPN == nullptr ? nullptr : gradients_HPN + state_offset);
    }
    if (gradients_HPN != nullptr) {
      product(
          Side::kPlain,
          Side::kPlain,
          chunk.rows,
          N,
          columns,
          scaled.data,
          scaled.stride,
          gradients_HPN + head * P * N,
          N,
          true,
          db_tile.data,
          db_tile.stride);
    }
    store_tile(ConstTile<Real>(dx_tile), chunk.rows, columns, dx_out, stride);
  }

  void write_head(
      const GradientWorker<Real>& worker,
      std::int64_t chunk_index,
      std::int64_t head,
      ConstTile<Real> c,
      Tile<Real> dc_tile,
      ConstTile<Real> x,
      ConstTile<Real> dy,
      Tile<Real> u,
      Tile<Real> scaled,
      Tile<Real> dx_tile,
      const Real* state,
      const Real* gradient) {
    const SsdChunk& chunk = plan_.chunks[chunk_index];
    const std::int64_t Q = chunk.rows;
    const auto [T, H, P, G, N, B] = plan_.sizes;
    const RunningSums<Real> sums = plan_.sums(head, chunk.first);
    const Real* dt = plan_.dt(head, chunk.first);
    if (gradient != nullptr) {
      Real* to_end = worker.to_end.get();
      loops_.decay_to_end(Q, sums, to_end);
      loops_.scale(Q, P, to_end, ConstTile<Real>(u), u);
      loops_.dot_rows(Q, P, x, ConstTile<Real>(u), worker.left.get());
      loops_.multiply(Q, worker.left.get(), dt, worker.left.get());
      loops_.multiply(Q, to_end, dt, worker.inputs.get());
      loops_.scale(Q, P, worker.inputs.get(), x, scaled);
    }
    product(
        Side::kPlain,
        Side::kTransposed,
        Q,
        Q,
        P,
        dy.data,
        dy.stride,
        x.data,
        x.stride,
        false,
        worker.products.get(),
        kSsdChunk);
    loops_.score_gradients(
        Q,
        {{worker.scores.get(), kSsdChunk},
         {worker.products.get(), kSsdChunk},
         sums,
         dt,
         {worker.weights.get(), kSsdChunk},
         {worker.score_gradients.get(), kSsdChunk},
         worker.column_sums.get(),
         worker.crossing.get()});
    product(
        Side::kTransposed,
        Side::kPlain,
        Q,
        P,
        Q,
        worker.weights.get(),
        kSsdChunk,
        dy.data,
        dy.stride,
        gradient != nullptr,
        u.data,
        u.stride);
    const bool has_state = !chunk.opens || initial_.has(chunk.sequence);
    if (has_state) {
      loops_.decay_from_start(Q, sums, worker.decay.get());
      product(
          Side::kPlain,
          Side::kPlain,
          Q,
          N,
          P,
          dy.data,
          dy.stride,
          state,
          N,
          false,
          worker.dc_head.get(),
          N);
      loops_.accumulate_and_dot(
          Q, N, worker.decay.get(), {worker.dc_head.get(), N}, c, dc_tile, worker.carried.get());
    }
    const Real* skip = nullptr;
    if (skip_HP_.defined()) {
      skip = skip_HP_.template const_data_ptr<Real>() + head * P;
      loops_.accumulate_products(
          Q, P, dy, x, dskip_CHP_.template mutable_data_ptr<Real>() + (chunk_index * H + head) * P);
    }
    loops_.input_gradients(
        Q,
        P,
        dt,
        skip,
        ConstTile<Real>(u),
        dy,
        x,
        dx_tile,
        ddt_HT.mutable_data_ptr<Real>() + head * T + chunk.first);
    const double through = has_state && gradient != nullptr
                               ? static_cast<double>(plan_.decay(chunk, head)) *
                                     static_cast<double>(loops_.dot(P * N, state, gradient))
                               : 0.0;
    write_decay_gradients(worker, chunk, head, has_state, gradient != nullptr, through);
  }

  // The log decay of token i counts in what passes from tokens before i to tokens from i on: inside
  // the chunk, from the entering state to outputs, from inputs to the leaving state, and from state
  // to state (`through`).
  void write_decay_gradients(
      const GradientWorker<Real>& worker,
      const SsdChunk& chunk,
      std::int64_t head,
      bool has_state,
      bool has_gradient,
      double through) {
    Real* out = dlog_HT.mutable_data_ptr<Real>() + head * plan_.sizes.T + chunk.first;
    double before = through;
    for (std::int64_t i = 0; i < chunk.rows; ++i) {
      out[i] = static_cast<Real>(before);
      before += has_gradient ? static_cast<double>(worker.left[i]) : 0.0;
    }
    double after = 0;
    for (std::int64_t i = chunk.rows - 1; i >= 0; --i) {
      after += has_state ? static_cast<double>(worker.carried[i]) : 0.0;
      out[i] += static_cast<Real>(after) + worker.crossing[i];
    }
  }

  const SsdPlan<Real>& plan_;
  const SsdInitial<Real>& initial_;
  const SsdRows<Real>& loops_;
  at::Tensor skip_HP_, dskip_CHP_;
  at::Tensor x_owner_, b_owner_, c_owner_, dy_owner_;
  TokenRows<In> x_, b_, c_, dy_;
};

} // namespace baton::ops::cpu
