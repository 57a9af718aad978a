// SPDX-License-Identifier: Apache-2.0
// What every operator of the scan on a GPU starts from: its inputs as kernels take them, and how
// the stream is cut. All of it follows from shapes.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/ssd_arguments.cuh"
#include "baton/ops/cuda_kernels_ssd.h"
#include "baton/ops/ssd_inputs.h"

namespace baton::ops::cuda {

/// An input [T, H, P] or [T, G, N] and how kernels read it. A dense copy where its rows are not.
struct SsdTokens {
  explicit SsdTokens(const at::Tensor& tensor);
  at::Tensor owner;
  SsdRows rows;
};

/// States [S, H, P, N] and how kernels read them. A dense copy where a slot is not.
struct SsdSource {
  SsdSource() = default; ///< zero
  explicit SsdSource(const at::Tensor& states, const std::optional<at::Tensor>& slots = {});
  at::Tensor owner, slots_owner;
  SsdStates states{};
};

/// Where sequences begin, as kernels see it.
struct SsdStream {
  SsdSizes sizes;
  at::Tensor starts; ///< [sizes.B + 1]
  at::Tensor marks;  ///< see SsdTimeInputs; undefined where sequences are as they were given
};

/// Whether sequences are short on the average, and more than one.
bool are_short(const SsdSizes& sizes);

/// The stream with its short sequences joined to one, in which marked tokens forget what came
/// before: chunks and blocks are filled by many of them. For calls that ask nothing of states
/// before and after sequences; else, and where sequences are long on the average, the stream as it
/// is.
SsdStream join_short_sequences(
    const Launcher& launcher,
    const at::Tensor& starts,
    const SsdSizes& sizes,
    bool states_asked);

/// dt [T, H] and what time steps are made of.
struct SsdTime {
  SsdTime(
      const at::Tensor& dt_TH,
      const at::Tensor& A_H,
      const SsdTimeStep& time_step,
      const at::Tensor& marks = {});
  at::Tensor dt, A_H, bias_H, marks;
  SsdTimeInputs inputs;
};

/// D, of [H] or [H, P], as kernels read it.
struct SsdSkip {
  explicit SsdSkip(const std::optional<at::Tensor>& D);
  at::Tensor owner;
  SsdSkipInputs inputs{};
};

/// One call's sizes, and how it cuts the stream: see SsdLayout. Where sequences times heads do not
/// fill a GPU, sequences are cut in segments whose states are made first.
struct SsdPlan {
  /// Sequences are cut where they give fewer than `enough_blocks` blocks. Throws c10::Error for
  /// what the GPU's kernels do not take.
  SsdPlan(
      const at::Tensor& values_THP,
      const at::Tensor& starts,
      const SsdSizes& sizes,
      std::int64_t enough_blocks = kOneBlockEach);

  /// Blocks that keep a large GPU busy: one on each multiprocessor, or nearly.
  static constexpr std::int64_t kOneBlockEach = 128;
  /// Where two share a multiprocessor: cutting a few more in two gains nothing.
  static constexpr std::int64_t kTwoBlocksEach = 176;

  SsdSizes sizes;
  at::ScalarType dtype;
  at::TensorOptions state_options;
  at::Tensor starts;
  SsdTile tile;
  std::int64_t tiles;          ///< of a head
  std::int64_t segment_tokens; ///< more than T where nothing is cut

  bool cut() const { return segment_tokens <= sizes.T; }
  std::int64_t segments() const { return sizes.T / segment_tokens + sizes.B; }
  std::int64_t chunks() const { return sizes.T / kSsdChunk + sizes.B; }
  SsdLayout layout() const;
  /// Blocks of a kernel that takes one a segment, head and tile.
  unsigned blocks() const;
};

/// Throws unless `tensor`, if there is one, is on the device of `like`.
void check_device(
    const char* name,
    const std::optional<at::Tensor>& tensor,
    const at::Tensor& like);

/// Throws unless all that a scan takes is on the device of x. SsdPlan checks starts.
void check_devices(const SsdInputs& inputs, const SsdStart& start);

} // namespace baton::ops::cuda
