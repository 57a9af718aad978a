// SPDX-License-Identifier: Apache-2.0
// How launches of the CUDA kernels share work, where that is a matter of measuring: one table for
// each architecture, made by `baton kernels tune` and built into the library
// (baton/ops/cuda/tuned/ARCH.toml). Sums over rows are added in an order that follows from it, so
// results have equal bits on one architecture, whatever the device.
#pragma once

#include <cstdint>
#include <string>

#include "baton/base/config.h"

namespace baton::ops {

struct NormTuning {
  std::int64_t block_threads = 128;
  std::int64_t gradient_block_threads = 128;
  std::int64_t gradient_threads = 67584;

  template <class V>
  void visit(V& v) {
    v.field("block_threads", block_threads, "threads of a block of small teams", Range{32, 512});
    v.field(
        "gradient_block_threads",
        gradient_block_threads,
        "the same of the gradients",
        Range{32, 512});
    v.field(
        "gradient_threads",
        gradient_threads,
        "threads that share the rows of a gradient",
        Range{1024, 4194304});
  }
};

struct ConvTuning {
  std::int64_t warps = 8192;
  std::int64_t longest_run = 64;
  std::int64_t gradient_warps = 4096;
  std::int64_t gradient_longest_run = 128;

  template <class V>
  void visit(V& v) {
    v.field("warps", warps, "warps that a launch is cut into at least", Range{64, 1048576});
    v.field("longest_run", longest_run, "tokens of a warp at most", Range{16, 4096});
    v.field("gradient_warps", gradient_warps, "the same of the gradients", Range{64, 1048576});
    v.field(
        "gradient_longest_run", gradient_longest_run, "the same of the gradients", Range{16, 4096});
  }
};

struct RotaryTuning {
  std::int64_t heads = 8;

  template <class V>
  void visit(V& v) {
    v.field("heads", heads, "heads of a thread at most", Range{1, 64});
  }
};

/// For inputs of one size class.
struct ClassTuning {
  NormTuning norm;
  ConvTuning conv;
  RotaryTuning rotary;

  template <class V>
  void visit(V& v) {
    v.group("norm", norm);
    v.group("conv", conv);
    v.group("rotary", rotary);
  }
};

/// Inputs of more bytes than this are large.
inline constexpr std::int64_t kLargeInput = 64 << 20;

struct Tuning {
  ClassTuning small;
  ClassTuning large;

  template <class V>
  void visit(V& v) {
    v.group("small", small);
    v.group("large", large);
  }
};

/// The table of an architecture ("sm_90a"), or of the nearest one that has one.
const Tuning& tuning_of(const std::string& arch);

/// Its part for a first input of so many bytes.
const ClassTuning& tuning_of(const std::string& arch, std::int64_t bytes);

/// While it lives, this table holds for every architecture: for measuring. Not for threads.
class TuningOverride {
 public:
  explicit TuningOverride(const Tuning& tuning);
  ~TuningOverride();
  TuningOverride(const TuningOverride&) = delete;
  TuningOverride& operator=(const TuningOverride&) = delete;
};

} // namespace baton::ops
