// SPDX-License-Identifier: Apache-2.0
// The forward scan on the CPU. By windows of chunks: all chunks' own states in parallel, a scan
// over them, then all chunks' outputs in parallel. The split does not depend on the number of
// threads.
#include "baton/ops/ssd.h"

#include <optional>
#include <tuple>

#include <torch/library.h>

#include "baton/ops/cpu/ssd_sweep.h"
#include "baton/ops/cpu/tile_product.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cpu {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

template <class In, class Real>
class Forward {
 public:
  Forward(
      const SsdPlan<Real>& plan,
      const SsdInitial<Real>& initial,
      const SsdInputs& inputs,
      In* y)
      : plan_(plan),
        initial_(initial),
        loops_(ssd_rows<Real>()),
        x_owner_(with_dense_rows(inputs.x_THP)),
        b_owner_(with_dense_rows(inputs.B_TGN)),
        c_owner_(with_dense_rows(inputs.C_TGN)),
        skip_HP_(expanded_skip<Real>(inputs.D, plan.sizes)),
        x_(token_rows<In>(x_owner_)),
        b_(token_rows<In>(b_owner_)),
        c_(token_rows<In>(c_owner_)),
        y_(y) {}

  void run(Real* final_states) {
    const std::int64_t num_chunks = static_cast<std::int64_t>(plan_.chunks.size());
    const std::int64_t window = std::min(plan_.window(), num_chunks);
    const std::int64_t state_size = plan_.sizes.H * plan_.sizes.state_size();
    const Scratch<Real> states = make_scratch<Real>(window * state_size);
    const Scratch<Real> carry = make_scratch<Real>(state_size);
    for (std::int64_t first = 0; first < num_chunks; first += window) {
      const std::int64_t last = std::min(first + window, num_chunks);
      add_up_chunks(plan_, SsdDirection::kForward, x_, b_, first, last, states.get());
      scan_states(plan_, initial_, first, last, states.get(), carry.get(), final_states);
      write_outputs(first, last, states.get());
    }
    finish_empty_sequences(plan_, initial_, final_states);
  }

 private:
  struct Worker {
    Scratch<Real> b, c, scores, weights, x, y, decay;
  };

  Worker make_worker() const {
    const std::int64_t tile = kSsdChunk * plan_.head_block() * plan_.sizes.P;
    const std::int64_t keys = kSsdChunk * plan_.sizes.N;
    const std::int64_t square = kSsdChunk * kSsdChunk;
    return {
        make_scratch<Real>(keys),
        make_scratch<Real>(keys),
        make_scratch<Real>(square),
        make_scratch<Real>(square),
        make_scratch<Real>(tile),
        make_scratch<Real>(tile),
        make_scratch<Real>(kSsdChunk)};
  }

  void write_outputs(std::int64_t first, std::int64_t last, const Real* states) {
    const std::int64_t G = plan_.sizes.G;
    const std::int64_t state_size = plan_.sizes.H * plan_.sizes.state_size();
    for_each_item(
        (last - first) * G,
        [&] { return make_worker(); },
        [&](const Worker& worker, std::int64_t item) {
          write_group(
              worker, plan_.chunks[first + item / G], item % G, states + item / G * state_size);
        });
  }

  void write_group(
      const Worker& worker,
      const SsdChunk& chunk,
      std::int64_t group,
      const Real* states_HPN) {
    const std::int64_t N = plan_.sizes.N;
    const std::int64_t group_heads = plan_.sizes.heads_per_group();
    const std::int64_t block = plan_.head_block();
    const ConstTile<Real> b = load_tile(b_, chunk, group * N, N, worker.b.get());
    const ConstTile<Real> c = load_tile(c_, chunk, group * N, N, worker.c.get());
    product(
        Side::kPlain,
        Side::kTransposed,
        chunk.rows,
        chunk.rows,
        N,
        c.data,
        c.stride,
        b.data,
        b.stride,
        false,
        worker.scores.get(),
        kSsdChunk);
    for (std::int64_t begin = 0; begin < group_heads; begin += block) {
      const std::int64_t heads = std::min(block, group_heads - begin);
      write_heads(worker, chunk, c, group * group_heads + begin, heads, states_HPN);
    }
  }

  // y_t = exp(s_t) h C_t + sum_{j <= t} (C_t . B_j) exp(s_t - s_j) dt_j x_j + D x_t
  void write_heads(
      const Worker& worker,
      const SsdChunk& chunk,
      ConstTile<Real> c,
      std::int64_t head,
      std::int64_t heads,
      const Real* states_HPN) {
    const std::int64_t P = plan_.sizes.P;
    const std::int64_t N = plan_.sizes.N;
    const std::int64_t stride = plan_.sizes.H * P;
    In* to = y_ + chunk.first * stride + head * P;
    const Tile<Real> y = output_tile(to, stride, heads * P, worker.y.get());
    const ConstTile<Real> x = load_tile(x_, chunk, head * P, heads * P, worker.x.get());
    const bool from_zero = chunk.opens && !initial_.has(chunk.sequence);
    if (!from_zero) {
      product(
          Side::kPlain,
          Side::kTransposed,
          chunk.rows,
          heads * P,
          N,
          c.data,
          c.stride,
          states_HPN + head * P * N,
          N,
          false,
          y.data,
          y.stride);
    }
    for (std::int64_t i = 0; i < heads; ++i) {
      const RunningSums<Real> sums = plan_.sums(head + i, chunk.first);
      const ConstTile<Real> x_head{x.data + i * P, x.stride};
      const Tile<Real> y_head{y.data + i * P, y.stride};
      const Real* skip =
          skip_HP_.defined() ? skip_HP_.template const_data_ptr<Real>() + (head + i) * P : nullptr;
      loops_.decay_from_start(chunk.rows, sums, worker.decay.get());
      loops_.start_output(
          chunk.rows, P, from_zero ? nullptr : worker.decay.get(), skip, x_head, y_head);
      loops_.decayed_scores(
          chunk.rows,
          {worker.scores.get(), kSsdChunk},
          sums,
          plan_.dt(head + i, chunk.first),
          {worker.weights.get(), kSsdChunk});
      product(
          Side::kPlain,
          Side::kPlain,
          chunk.rows,
          P,
          chunk.rows,
          worker.weights.get(),
          kSsdChunk,
          x_head.data,
          x_head.stride,
          true,
          y_head.data,
          y_head.stride);
    }
    store_tile(ConstTile<Real>(y), chunk.rows, heads * P, to, stride);
  }

  const SsdPlan<Real>& plan_;
  const SsdInitial<Real>& initial_;
  const SsdRows<Real>& loops_;
  at::Tensor x_owner_, b_owner_, c_owner_, skip_HP_;
  TokenRows<In> x_, b_, c_;
  In* y_;
};

template <class In, class Real>
std::tuple<at::Tensor, at::Tensor> run_forward(
    const SsdInputs& inputs,
    const SsdStart& start,
    const SsdSizes& sizes,
    bool final_states) {
  const SsdPlan<Real> plan(sizes, inputs.dt_TH, inputs.A_H, inputs.starts, inputs.time_step);
  const SsdInitial<Real> initial(start, sizes.B);
  at::Tensor y = at::empty(inputs.x_THP.sizes(), inputs.x_THP.options());
  at::Tensor states = at::empty(
      {final_states ? sizes.B : 0, sizes.H, sizes.P, sizes.N},
      inputs.x_THP.options().dtype(ssd_state_dtype(inputs.x_THP)));
  Forward<In, Real>(plan, initial, inputs, y.mutable_data_ptr<In>())
      .run(final_states ? states.mutable_data_ptr<Real>() : nullptr);
  return {y, states};
}

std::tuple<at::Tensor, at::Tensor> ssd_cpu(
    const at::Tensor& x,
    const at::Tensor& dt,
    const at::Tensor& A,
    const at::Tensor& B,
    const at::Tensor& C,
    const at::Tensor& starts,
    const OptionalTensor& D,
    const OptionalTensor& dt_bias,
    const OptionalTensor& initial_states,
    const OptionalTensor& initial_slots,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max,
    bool final_states,
    const OptionalTensor& z) {
  const SsdInputs inputs{
      x, dt, A, B, C, starts, D, {dt_bias, dt_softplus, dt_min, dt_max.value_or(kNoTimeStepLimit)}};
  const SsdStart start{initial_states, initial_slots};
  const SsdSizes sizes = checked_ssd_inputs(inputs, start);
  if (z) {
    check_same("z", *z, "x", x);
  }
  auto [y, states] = x.scalar_type() == at::kDouble
                         ? run_forward<double, double>(inputs, start, sizes, final_states)
                     : x.scalar_type() == at::kFloat
                         ? run_forward<float, float>(inputs, start, sizes, final_states)
                         : run_forward<c10::BFloat16, float>(inputs, start, sizes, final_states);
  return {z ? gate_outputs(y, *z) : y, states};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("ssd", &ssd_cpu);
}

} // namespace baton::ops::cpu
