// SPDX-License-Identifier: Apache-2.0
// What the steps of whole layers have in common on the CPU: rows of scratch, the products with the
// norm in front and the residual addition behind.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <hwy/aligned_allocator.h>

#include "baton/ops/cpu/matvec.h"
#include "baton/ops/cpu/phases.h"
#include "baton/ops/layer_frame.h"

namespace baton::ops::cpu {

/// Scratch of one step, since a piece of memory for every part of it would cost more than its work.
class StepRoom {
 public:
  /// Aligned for vectors, and readable a vector behind its end.
  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<std::int64_t>(sizeof(T))));
  }
  void* take_bytes(std::int64_t bytes);

 private:
  std::vector<hwy::AlignedFreeUniquePtr<char[]>> blocks_;
  char* next_ = nullptr;
  std::int64_t left_ = 0;
};

/// Scratch [B, C] of an activation's dtype.
class StepRows {
 public:
  StepRows(StepRoom& room, at::ScalarType dtype, std::int64_t num_rows, std::int64_t channels);

  template <class T = void>
  T* data() const {
    return reinterpret_cast<T*>(bytes_);
  }
  /// Value `channel` of a row.
  void* at(std::int64_t row, std::int64_t channel = 0) const {
    return bytes_ + (row * channels_ + channel) * value_bytes_;
  }
  std::int64_t channels() const { return channels_; }

 private:
  std::int64_t channels_;
  std::int64_t value_bytes_;
  char* bytes_;
};

/// Whether a parameter, if there is one, lies as kernels of steps read it.
bool is_plain(const std::optional<at::Tensor>& parameter, at::ScalarType dtype);

/// hidden + scale layer(rms_norm(hidden)) [B, D], of at most kMatvecRows rows in fp32 or bf16.
class LayerStep {
 public:
  LayerStep(StepRoom& room, const at::Tensor& hidden_BD, const LayerFrame& frame);

  /// Whether rows are such that this way is open to them, and with such rows the weights of a
  /// product.
  static bool takes(const at::Tensor& hidden_BD, const LayerFrame& frame);
  static bool
  takes(at::ScalarType dtype, const at::Tensor& weight_FD, const std::optional<at::Tensor>& bias_F);

  at::ScalarType dtype() const { return hidden_BD_.scalar_type(); }
  std::int64_t num_rows() const { return hidden_BD_.size(0); }

  /// A product with rms_norm(hidden), and its phase; `product` outlives that.
  MatvecTask first_product(
      const at::Tensor& weight_FD,
      const std::optional<at::Tensor>& bias_F,
      const StepRows& y) const;
  Phase norm_and_product(const MatvecTask& product) const;
  /// The product that makes what is added to hidden, and its phase, in which `make_rows` writes the
  /// product's rows [B, F] in the layer's dtype; `product` outlives that.
  MatvecTask last_product(const at::Tensor& weight_DF, const std::optional<at::Tensor>& bias_D)
      const;
  Phase product_and_add(const MatvecTask& product, std::function<void(void* rows)> make_rows) const;

  const at::Tensor& out() const { return out_BD_; }

 private:
  void norm(void* rows) const;
  void run_add(const MatvecTask& product, const float* x_BD, std::int64_t item) const;

  at::Tensor hidden_BD_;
  at::Tensor norm_weight_D_;
  double norm_eps_;
  double scale_;
  at::Tensor out_BD_;
  StepRows update_;
};

/// The rows that a product's phase has placed in a worker's scratch.
const float* product_rows(const MatvecTask& product, const void* scratch);

} // namespace baton::ops::cpu
