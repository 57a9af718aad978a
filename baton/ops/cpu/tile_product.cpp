// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/tile_product.h"

#include <ATen/ATen.h>

// libtorch_cpu exports the BLAS it was built with on x86-64. Elsewhere the symbols may be missing;
// then the products go through at::mm_out, which costs a few microseconds more a call.
extern "C" {
[[gnu::weak]] void sgemm_(
    const char* a_side,
    const char* b_side,
    const int* m,
    const int* n,
    const int* k,
    const float* alpha,
    const float* a,
    const int* a_stride,
    const float* b,
    const int* b_stride,
    const float* beta,
    float* out,
    const int* out_stride);
[[gnu::weak]] void dgemm_(
    const char* a_side,
    const char* b_side,
    const int* m,
    const int* n,
    const int* k,
    const double* alpha,
    const double* a,
    const int* a_stride,
    const double* b,
    const int* b_stride,
    const double* beta,
    double* out,
    const int* out_stride);
}

namespace baton::ops::cpu {
namespace {

template <class Real>
at::Tensor
view(const Real* data, Side side, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<Real>::value);
  auto* writable = const_cast<Real*>(data);
  return side == Side::kPlain ? at::from_blob(writable, {rows, columns}, {stride, 1}, options)
                              : at::from_blob(writable, {rows, columns}, {1, stride}, options);
}

template <class Real, class Gemm>
void run(
    Gemm gemm,
    Side a_side,
    Side b_side,
    std::int64_t m,
    std::int64_t n,
    std::int64_t k,
    const Real* a,
    std::int64_t a_stride,
    const Real* b,
    std::int64_t b_stride,
    bool accumulate,
    Real* out,
    std::int64_t out_stride) {
  if (m == 0 || n == 0) {
    return;
  }
  if (gemm == nullptr) {
    at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor target = view(out, Side::kPlain, m, n, out_stride);
    const at::Tensor left = view(a, a_side, m, k, a_stride);
    const at::Tensor right = view(b, b_side, k, n, b_stride);
    if (accumulate) {
      target.addmm_(left, right);
    } else {
      at::mm_out(target, left, right);
    }
    return;
  }
  // BLAS is column-major: it sees the transposes of our tiles, so it computes out^T = b^T a^T.
  const auto letter = [](Side side) { return side == Side::kPlain ? "N" : "T"; };
  const auto size = [](std::int64_t value) { return static_cast<int>(value); };
  const int rows = size(n), columns = size(m), depth = size(k);
  const int first_stride = size(b_stride), second_stride = size(a_stride),
            stride = size(out_stride);
  const Real one = 1;
  const Real beta = accumulate ? Real(1) : Real(0);
  gemm(
      letter(b_side),
      letter(a_side),
      &rows,
      &columns,
      &depth,
      &one,
      b,
      &first_stride,
      a,
      &second_stride,
      &beta,
      out,
      &stride);
}

} // namespace

void product(
    Side a_side,
    Side b_side,
    std::int64_t m,
    std::int64_t n,
    std::int64_t k,
    const float* a,
    std::int64_t a_stride,
    const float* b,
    std::int64_t b_stride,
    bool accumulate,
    float* out,
    std::int64_t out_stride) {
  run(&sgemm_, a_side, b_side, m, n, k, a, a_stride, b, b_stride, accumulate, out, out_stride);
}

void product(
    Side a_side,
    Side b_side,
    std::int64_t m,
    std::int64_t n,
    std::int64_t k,
    const double* a,
    std::int64_t a_stride,
    const double* b,
    std::int64_t b_stride,
    bool accumulate,
    double* out,
    std::int64_t out_stride) {
  run(&dgemm_, a_side, b_side, m, n, k, a, a_stride, b, b_stride, accumulate, out, out_stride);
}

} // namespace baton::ops::cpu
