// SPDX-License-Identifier: Apache-2.0
// The elementwise inner loops of the scan, vectorised for the processor found at run time.
#pragma once

#include <cstdint>

#include <c10/util/BFloat16.h>

namespace baton::ops::cpu {

/// How a raw time step becomes the one that is used: clamp(softplus(raw + bias), low, high).
struct TimeStepRule {
  bool softplus = true;
  double low = 0.0;
  double high = 0.0;
};

/// exp(s_i - s_j) is taken from running sums s of log decays within one chunk. They are kept as
/// high + low, so that the difference of two neighbours is exact to the type even where the sums
/// are large. Arrays of sums and of time steps are readable 16 elements past their end.
template <class Real>
struct RunningSums {
  const Real* high;
  const Real* low;
};

/// A row-major block of numbers.
template <class Real>
struct ConstTile {
  const Real* data;
  std::int64_t stride; ///< elements from one row to the next
};
template <class Real>
struct Tile {
  Real* data;
  std::int64_t stride;
  operator ConstTile<Real>() const { return {data, stride}; }
};

/// What one chunk of one head reads and writes when its matrix of scores is differentiated.
template <class Real>
struct ScoreGradients {
  ConstTile<Real> scores;   ///< C_t . B_j
  ConstTile<Real> products; ///< dy_t . x_j
  RunningSums<Real> sums;
  const Real* dt;
  Tile<Real> weights;   ///< out: scores with decays, zero above the diagonal
  Tile<Real> gradients; ///< accumulated: gradient of scores
  Real* column_sums;    ///< scratch
  /// Out: per i, the sum over t >= i and j < i of score times its gradient: what passes token i.
  /// Added up as it stands, because a difference of row and column sums would cancel under strong
  /// decays.
  Real* crossing;
};

/// One table of loops for float or double. Sizes are rows, then columns.
template <class Real>
struct SsdRows {
  void (*time_steps)(
      const TimeStepRule& rule,
      std::int64_t n,
      const Real* raw,
      const Real* bias,
      Real* dt);
  /// Turns the gradient of dt into that of raw, in place.
  void (*time_step_gradients)(
      const TimeStepRule& rule,
      std::int64_t n,
      const Real* raw,
      const Real* bias,
      Real* gradient);
  /// out_i = exp(s_i)
  void (*decay_from_start)(std::int64_t n, RunningSums<Real> sums, Real* out);
  /// out_i = exp(s_last - s_i)
  void (*decay_to_end)(std::int64_t n, RunningSums<Real> sums, Real* out);
  /// out_i = a_i b_i
  void (*multiply)(std::int64_t n, const Real* a, const Real* b, Real* out);
  /// out[i][:] = weights_i in[i][:]
  void (*scale)(
      std::int64_t rows,
      std::int64_t columns,
      const Real* weights,
      ConstTile<Real> in,
      Tile<Real> out);
  /// weights[t][j] = scores[t][j] exp(s_t - s_j) dt_j for j <= t, else 0
  void (*decayed_scores)(
      std::int64_t rows,
      ConstTile<Real> scores,
      RunningSums<Real> sums,
      const Real* dt,
      Tile<Real> weights);
  void (*score_gradients)(std::int64_t rows, const ScoreGradients<Real>& job);
  /// y[i][:] = weights_i y[i][:] + skip[:] x[i][:]; no weights: y is not read; no skip: 0.
  void (*start_output)(
      std::int64_t rows,
      std::int64_t columns,
      const Real* weights,
      const Real* skip,
      ConstTile<Real> x,
      Tile<Real> y);
  /// carry = decay carry + chunk, and chunk becomes the carry that it met.
  void (*exchange_state)(std::int64_t n, Real decay, Real* carry, Real* chunk);
  Real (*dot)(std::int64_t n, const Real* a, const Real* b);
  /// dots_i = a[i] . b[i]
  void (*dot_rows)(
      std::int64_t rows,
      std::int64_t columns,
      ConstTile<Real> a,
      ConstTile<Real> b,
      Real* dots);
  /// dots_i = weights_i a[i] . b[i]; sum[i][:] += weights_i a[i][:]
  void (*accumulate_and_dot)(
      std::int64_t rows,
      std::int64_t columns,
      const Real* weights,
      ConstTile<Real> a,
      ConstTile<Real> b,
      Tile<Real> sum,
      Real* dots);
  /// dx[i][:] = dt_i u[i][:] + skip[:] dy[i][:] (skip may be null); dots_i = x[i] . u[i]
  void (*input_gradients)(
      std::int64_t rows,
      std::int64_t columns,
      const Real* dt,
      const Real* skip,
      ConstTile<Real> u,
      ConstTile<Real> dy,
      ConstTile<Real> x,
      Tile<Real> dx,
      Real* dots);
  /// sum[:] += sum over i of a[i][:] b[i][:]
  void (*accumulate_products)(
      std::int64_t rows,
      std::int64_t columns,
      ConstTile<Real> a,
      ConstTile<Real> b,
      Real* sum);
  /// One token of one head: state[p][:] = decay state[p][:] + dt x_p b[:]; y_p = c . state[p].
  void (*step)(
      std::int64_t head_dim,
      std::int64_t state_dim,
      Real decay,
      Real dt,
      const Real* x,
      const Real* b,
      const Real* c,
      Real* state,
      Real* y);
};

/// The table for this processor; instantiated for float and double.
template <class Real>
const SsdRows<Real>& ssd_rows();

void widen_row(std::int64_t n, const c10::BFloat16* in, float* out);
void narrow_row(std::int64_t n, const float* in, c10::BFloat16* out);

} // namespace baton::ops::cpu
