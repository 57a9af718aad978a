// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/ssd_sweep.h"

#include "baton/ops/cpu/tile_product.h"

namespace baton::ops::cpu {

template <class Real>
SsdInitial<Real>::SsdInitial(const SsdStart& start, std::int64_t num_sequences) {
  if (!start.states_SHPN.has_value()) {
    return;
  }
  const at::Tensor& given = *start.states_SHPN;
  const bool dense = given.size(0) == 0 || given.select(0, 0).is_contiguous();
  states_SHPN = dense ? given : given.contiguous();
  slots = checked_slots(start.slots_B, num_sequences, given.size(0));
}

template <class In, class Real>
void add_up_chunks(
    const SsdPlan<Real>& plan,
    SsdDirection direction,
    TokenRows<In> values,
    TokenRows<In> keys,
    std::int64_t first,
    std::int64_t last,
    Real* states) {
  const auto [T, H, P, G, N, B] = plan.sizes;
  const std::int64_t group_heads = plan.sizes.heads_per_group();
  const std::int64_t block = plan.head_block();
  const SsdRows<Real>& loops = ssd_rows<Real>();
  struct Worker {
    Scratch<Real> keys, values, weights;
  };
  const auto make_worker = [&, P = P, N = N] {
    return Worker{
        make_scratch<Real>(kSsdChunk * N),
        make_scratch<Real>(kSsdChunk * block * P),
        make_scratch<Real>(kSsdChunk)};
  };
  for_each_item(
      (last - first) * G,
      make_worker,
      [&, H = H, P = P, G = G, N = N](const Worker& worker, std::int64_t item) {
        const std::int64_t c = first + item / G;
        const std::int64_t group = item % G;
        const SsdChunk& chunk = plan.chunks[c];
        const ConstTile<Real> key = load_tile(keys, chunk, group * N, N, worker.keys.get());
        for (std::int64_t begin = 0; begin < group_heads; begin += block) {
          const std::int64_t heads = std::min(block, group_heads - begin);
          const std::int64_t head = group * group_heads + begin;
          const Tile<Real> scaled{worker.values.get(), heads * P};
          const ConstTile<Real> value =
              load_tile(values, chunk, head * P, heads * P, worker.values.get());
          for (std::int64_t i = 0; i < heads; ++i) {
            const RunningSums<Real> sums = plan.sums(head + i, chunk.first);
            Real* weights = worker.weights.get();
            if (direction == SsdDirection::kForward) {
              loops.decay_to_end(chunk.rows, sums, weights);
              loops.multiply(chunk.rows, weights, plan.dt(head + i, chunk.first), weights);
            } else {
              loops.decay_from_start(chunk.rows, sums, weights);
            }
            loops.scale(
                chunk.rows,
                P,
                weights,
                {value.data + i * P, value.stride},
                {scaled.data + i * P, scaled.stride});
          }
          product(
              Side::kTransposed,
              Side::kPlain,
              heads * P,
              N,
              chunk.rows,
              scaled.data,
              scaled.stride,
              key.data,
              key.stride,
              false,
              states + ((c - first) * H + head) * P * N,
              N);
        }
      });
}

template <class Real>
void scan_states(
    const SsdPlan<Real>& plan,
    const SsdInitial<Real>& initial,
    std::int64_t first,
    std::int64_t last,
    Real* states,
    Real* carry,
    Real* final_states) {
  const std::int64_t size = plan.sizes.state_size();
  const std::int64_t H = plan.sizes.H;
  const SsdRows<Real>& loops = ssd_rows<Real>();
  for_each_item(
      H,
      [] { return 0; },
      [&](int, std::int64_t h) {
        Real* state = carry + h * size;
        for (std::int64_t c = first; c < last; ++c) {
          const SsdChunk& chunk = plan.chunks[c];
          if (chunk.opens) {
            if (initial.has(chunk.sequence)) {
              std::copy_n(initial.state(chunk.sequence, h), size, state);
            } else {
              std::fill_n(state, size, Real(0));
            }
          }
          loops.exchange_state(
              size, plan.decay(chunk, h), state, states + ((c - first) * H + h) * size);
          if (chunk.closes && final_states != nullptr) {
            std::copy_n(state, size, final_states + (chunk.sequence * H + h) * size);
          }
        }
      });
}

template <class Real>
void finish_empty_sequences(
    const SsdPlan<Real>& plan,
    const SsdInitial<Real>& initial,
    Real* final_states) {
  if (final_states == nullptr) {
    return;
  }
  const std::int64_t size = plan.sizes.H * plan.sizes.state_size();
  for (std::int64_t b = 0; b < plan.sizes.B; ++b) {
    if (plan.starts[b] != plan.starts[b + 1]) {
      continue;
    }
    if (initial.has(b)) {
      std::copy_n(initial.state(b, 0), size, final_states + b * size);
    } else {
      std::fill_n(final_states + b * size, size, Real(0));
    }
  }
}

template struct SsdInitial<float>;
template struct SsdInitial<double>;

#define BATON_INSTANTIATE(In, Real) \
  template void add_up_chunks(      \
      const SsdPlan<Real>&,         \
      SsdDirection,                 \
      TokenRows<In>,                \
      TokenRows<In>,                \
      std::int64_t,                 \
      std::int64_t,                 \
      Real*);
BATON_INSTANTIATE(double, double)
BATON_INSTANTIATE(float, float)
BATON_INSTANTIATE(c10::BFloat16, float)
#undef BATON_INSTANTIATE

#define BATON_INSTANTIATE(Real) \
  template void scan_states(    \
      const SsdPlan<Real>&,     \
      const SsdInitial<Real>&,  \
      std::int64_t,             \
      std::int64_t,             \
      Real*,                    \
      Real*,                    \
      Real*);                   \
  template void finish_empty_sequences(const SsdPlan<Real>&, const SsdInitial<Real>&, Real*);
BATON_INSTANTIATE(double)
BATON_INSTANTIATE(float)
#undef BATON_INSTANTIATE

} // namespace baton::ops::cpu
