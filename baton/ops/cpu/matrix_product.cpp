// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/matrix_product.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <ATen/ATen.h>
#include <ATen/cpu/Utils.h>
#include <ATen/native/CPUBlas.h>

#include "baton/ops/cpu/each_item.h"

namespace baton::ops::cpu {
namespace {

// Tiles feed the threads; each is packed by the BLAS on its own, so more of them cost some percent.
constexpr std::int64_t kFewTiles = 16;
constexpr std::int64_t kMostTiles = 64;
constexpr std::int64_t kSmallestWork = std::int64_t{1} << 21; // multiply-adds, some 50 us of a core
constexpr std::int64_t kLargeWork = std::int64_t{1} << 27;    // is cut further than kFewTiles
constexpr std::int64_t kSmallestSide = 96;
constexpr std::int64_t kSmallestDepth = 1024;
constexpr std::int64_t kSideStep = 16; // keeps tiles on the BLAS kernels' own steps
// Of bf16 factors of an fp32 sum, as far as they fit the caches of a core.
constexpr std::int64_t kPairedRows = 64;
constexpr std::int64_t kPairedColumns = 256;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Tile sizes of a product, from its shape alone.
struct Tiling {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t depth;
  std::int64_t row_tiles;
  std::int64_t column_tiles;
  std::int64_t depth_tiles;
};

Tiling make_tiling(std::int64_t m, std::int64_t n, std::int64_t k, bool may_cut_depth) {
  std::int64_t rows = m;
  std::int64_t columns = n;
  std::int64_t depth = k;
  for (std::int64_t tiles = 1; tiles < kMostTiles; tiles *= 2) {
    if (rows * columns * depth <= (tiles < kFewTiles ? kSmallestWork : kLargeWork)) {
      break;
    }
    if (std::max(rows, columns) >= 2 * kSmallestSide) {
      std::int64_t& longer = rows > columns ? rows : columns;
      longer = divide_up(longer, 2);
    } else if (may_cut_depth && depth >= 2 * kSmallestDepth) {
      depth = divide_up(depth, 2);
    } else {
      break;
    }
  }
  rows = std::min(m, divide_up(rows, kSideStep) * kSideStep);
  columns = std::min(n, divide_up(columns, kSideStep) * kSideStep);
  return {rows, columns, depth, divide_up(m, rows), divide_up(n, columns), divide_up(k, depth)};
}

bool is_row_major(const at::Tensor& matrix) {
  return (matrix.stride(1) == 1 || matrix.size(1) == 1) &&
         (matrix.stride(0) >= std::max<std::int64_t>(1, matrix.size(1)) || matrix.size(0) == 1);
}

at::Tensor with_usable_strides(const at::Tensor& matrix) {
  return is_row_major(matrix) || is_row_major(matrix.t()) ? matrix : matrix.contiguous();
}

/// out (+)= the sum over parts of parts_SMN, part by part.
template <class T>
void sum_parts(const at::Tensor& out_MN, const at::Tensor& parts_SMN, bool accumulate) {
  const std::int64_t m = out_MN.size(0);
  const std::int64_t n = out_MN.size(1);
  const T* parts = parts_SMN.const_data_ptr<T>();
  T* out = out_MN.mutable_data_ptr<T>();
  for_each_item(m, [&](std::int64_t row) {
    T* out_N = out + row * out_MN.stride(0);
    for (std::int64_t part = 0; part < parts_SMN.size(0); ++part) {
      const T* part_N = parts + (part * m + row) * n;
      const bool add = accumulate || part > 0;
      for (std::int64_t i = 0; i < n; ++i) {
        out_N[i] = add ? out_N[i] + part_N[i] : part_N[i];
      }
    }
  });
}

template <class T>
void product_tiles(
    const at::Tensor& out_MN,
    const at::Tensor& a_MK,
    const at::Tensor& b_KN,
    bool accumulate) {
  const std::int64_t m = a_MK.size(0);
  const std::int64_t k = a_MK.size(1);
  const std::int64_t n = b_KN.size(1);
  constexpr bool kMayCutDepth = !std::is_same_v<T, at::BFloat16>; // its parts would be rounded
  const Tiling tiling = make_tiling(m, n, k, kMayCutDepth);
  const bool cut = tiling.depth_tiles > 1;
  const at::Tensor parts_SMN =
      cut ? at::empty({tiling.depth_tiles, m, n}, out_MN.options()) : out_MN.unsqueeze(0);
  for_each_item(
      tiling.row_tiles * tiling.column_tiles * tiling.depth_tiles, [&](std::int64_t tile) {
        const std::int64_t part = tile % tiling.depth_tiles;
        const std::int64_t column =
            tile / tiling.depth_tiles % tiling.column_tiles * tiling.columns;
        const std::int64_t row = tile / tiling.depth_tiles / tiling.column_tiles * tiling.rows;
        const std::int64_t first = part * tiling.depth;
        const auto piece = [](const at::Tensor& matrix,
                              std::int64_t r,
                              std::int64_t rs,
                              std::int64_t c,
                              std::int64_t cs) {
          return matrix.narrow(0, r, std::min(rs, matrix.size(0) - r))
              .narrow(1, c, std::min(cs, matrix.size(1) - c));
        };
        const at::Tensor a = piece(a_MK, row, tiling.rows, first, tiling.depth);
        const at::Tensor b = piece(b_KN, first, tiling.depth, column, tiling.columns);
        at::Tensor out = piece(parts_SMN[part], row, tiling.rows, column, tiling.columns);
        if (accumulate && !cut) {
          at::addmm_out(out, out, a, b);
        } else {
          at::mm_out(out, a, b);
        }
      });
  if (cut) {
    sum_parts<T>(out_MN, parts_SMN, accumulate);
  }
}

/// b_KN as bf16 units take it: [K/2, N] pairs of neighbouring depths.
at::Tensor paired_depths(const at::Tensor& b_KN) {
  return b_KN.t().contiguous().view(at::kInt).t().contiguous();
}

/// An fp32 sum of bf16 products, which are exact in fp32, for an even depth. ATen's own product
/// would round the sum.
void paired_product(
    const at::Tensor& out_MN,
    const at::Tensor& a_MK,
    const at::Tensor& b_KN,
    bool accumulate) {
  const std::int64_t m = a_MK.size(0);
  const std::int64_t k = a_MK.size(1);
  const std::int64_t n = b_KN.size(1);
  const at::Tensor a = is_row_major(a_MK) ? a_MK : a_MK.contiguous();
  const at::Tensor pairs = paired_depths(b_KN);
  const auto* left = a.const_data_ptr<at::BFloat16>();
  const auto* right = static_cast<const at::BFloat16*>(pairs.const_data_ptr());
  auto* out = out_MN.mutable_data_ptr<float>();
  const std::int64_t column_tiles = divide_up(n, kPairedColumns);
  for_each_item(divide_up(m, kPairedRows) * column_tiles, [&](std::int64_t tile) {
    const std::int64_t row = tile / column_tiles * kPairedRows;
    const std::int64_t column = tile % column_tiles * kPairedColumns;
    at::native::cpublas::brgemm(
        std::min(kPairedRows, m - row),
        std::min(kPairedColumns, n - column),
        k,
        a.stride(0),
        n,
        out_MN.stride(0),
        accumulate,
        left + row * a.stride(0),
        right + 2 * column,
        out + row * out_MN.stride(0) + column);
    at::native::cpublas::brgemm_release();
  });
}

} // namespace

bool has_bf16_units() {
  static const bool has = [] {
    const auto capabilities = at::cpu::get_cpu_capabilities();
    const auto found = capabilities.find("avx512_bf16");
    return found != capabilities.end() && found->second.toBool();
  }();
  return has;
}

void matrix_product_out(
    const at::Tensor& out_MN,
    const at::Tensor& a_MK,
    const at::Tensor& b_KN,
    bool accumulate) {
  TORCH_INTERNAL_ASSERT(a_MK.size(1) == b_KN.size(0) && out_MN.size(0) == a_MK.size(0));
  TORCH_INTERNAL_ASSERT(out_MN.size(1) == b_KN.size(1) && is_row_major(out_MN));
  if (out_MN.numel() == 0) {
    return;
  }
  if (a_MK.size(1) == 0) {
    if (!accumulate) {
      out_MN.zero_();
    }
    return;
  }
  TORCH_INTERNAL_ASSERT(
      a_MK.scalar_type() == b_KN.scalar_type() &&
      (a_MK.scalar_type() == out_MN.scalar_type() ||
       (a_MK.scalar_type() == at::kBFloat16 && out_MN.scalar_type() == at::kFloat)));
  const at::Tensor a = with_usable_strides(a_MK);
  const at::Tensor b = with_usable_strides(b_KN);
  switch (out_MN.scalar_type()) {
    case at::kDouble:
      return product_tiles<double>(out_MN, a, b, accumulate);
    case at::kFloat:
      if (a.scalar_type() == at::kFloat) {
        return product_tiles<float>(out_MN, a, b, accumulate);
      }
      if (has_bf16_units() && at::globalContext().userEnabledMkldnn() && a.size(1) % 2 == 0) {
        return paired_product(out_MN, a, b, accumulate);
      }
      return product_tiles<float>(out_MN, a.to(at::kFloat), b.to(at::kFloat), accumulate);
    case at::kBFloat16:
      break;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(
          false, "products take float64, float32 or bfloat16, got ", out_MN.scalar_type());
  }
  if (has_bf16_units()) {
    return product_tiles<at::BFloat16>(out_MN, a, b, accumulate);
  }
  const at::Tensor wide = accumulate
                              ? out_MN.to(at::kFloat)
                              : at::empty(out_MN.sizes(), out_MN.options().dtype(at::kFloat));
  product_tiles<float>(wide, a.to(at::kFloat), b.to(at::kFloat), accumulate);
  out_MN.copy_(wide);
}

at::Tensor matrix_product(const at::Tensor& a_MK, const at::Tensor& b_KN) {
  at::Tensor out_MN = at::empty({a_MK.size(0), b_KN.size(1)}, a_MK.options());
  matrix_product_out(out_MN, a_MK, b_KN);
  return out_MN;
}

} // namespace baton::ops::cpu
