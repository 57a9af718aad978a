// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/paged_attention.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "baton/base/layout.h"

namespace baton::ops {
namespace {

using Lengths = std::vector<std::int64_t>;

/// Relative to values of size 1; bf16 is rounded once, at the end.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-13 : dtype == at::kFloat ? 1e-5 : 8e-3;
}

at::Tensor int32_vector(const Lengths& values) {
  return at::tensor(values, at::kLong).to(at::kInt);
}

/// A cache whose pages are taken in random order, filled through `paged_write_`.
struct Cache {
  at::Tensor k_pages;
  at::Tensor v_pages;
  at::Tensor page_table_BM;
  at::Tensor k_THP; ///< what was written, packed by sequence
  at::Tensor v_THP;
  Lengths lengths;
};

Cache make_cache(
    const Lengths& lengths,
    std::int64_t page_size,
    std::int64_t num_heads,
    std::int64_t head_dim,
    at::ScalarType dtype) {
  at::manual_seed(7);
  Cache cache;
  cache.lengths = lengths;
  std::int64_t total = 0;
  std::int64_t width = 1;
  for (const std::int64_t length : lengths) {
    total += length;
    width = std::max(width, (length + page_size - 1) / page_size);
  }
  const auto batch = static_cast<std::int64_t>(lengths.size());
  const std::int64_t num_pages = batch * width + 2;
  // Keys and values of a page lie side by side, so that both are strided views. NaN stands for what
  // must never be read.
  const at::Tensor storage = at::full(
      {num_pages, page_size, 2, num_heads, head_dim},
      std::numeric_limits<double>::quiet_NaN(),
      dtype);
  cache.k_pages = storage.select(2, 0);
  cache.v_pages = storage.select(2, 1);
  cache.page_table_BM = at::randperm(num_pages, at::kLong)
                            .narrow(0, 0, batch * width)
                            .view({batch, width})
                            .to(at::kInt);
  cache.k_THP = at::randn({total, num_heads, head_dim}, at::kDouble).to(dtype);
  cache.v_THP = at::randn({total, num_heads, head_dim}, at::kDouble).to(dtype);
  paged_write_(
      cache.k_pages,
      cache.v_pages,
      cache.k_THP,
      cache.v_THP,
      cache.page_table_BM,
      make_layout_from_lengths(lengths).starts_B1,
      at::zeros({batch}, at::kInt));
  return cache;
}

at::Tensor attend(const Cache& cache, const at::Tensor& q_THP, const Lengths& num_new) {
  return paged_attention(
      q_THP,
      cache.k_pages,
      cache.v_pages,
      cache.page_table_BM,
      make_layout_from_lengths(num_new).starts_B1,
      int32_vector(cache.lengths),
      0.3);
}

/// The formula in fp64, on the packed keys and values.
at::Tensor plain(const Cache& cache, const at::Tensor& q_THP, const Lengths& num_new) {
  const std::int64_t group = q_THP.size(1) / cache.k_THP.size(1);
  at::Tensor out = at::zeros(q_THP.sizes(), at::kDouble);
  std::int64_t first_q = 0;
  std::int64_t first_k = 0;
  for (std::size_t b = 0; b < num_new.size(); ++b) {
    const std::int64_t length = cache.lengths[b];
    const auto packed = [&](const at::Tensor& x) {
      return x.narrow(0, first_k, length)
          .to(at::kDouble)
          .transpose(0, 1)
          .repeat_interleave(group, 0);
    };
    const at::Tensor q = q_THP.narrow(0, first_q, num_new[b]).to(at::kDouble).transpose(0, 1);
    const at::Tensor hidden =
        at::ones({num_new[b], length}, at::kBool).triu(length - num_new[b] + 1);
    const at::Tensor scores = (at::matmul(q, packed(cache.k_THP).transpose(1, 2)) * 0.3)
                                  .masked_fill(hidden, -std::numeric_limits<double>::infinity());
    out.narrow(0, first_q, num_new[b])
        .copy_(at::matmul(scores.softmax(-1), packed(cache.v_THP)).transpose(0, 1));
    first_q += num_new[b];
    first_k += length;
  }
  return out;
}

struct Case {
  Lengths lengths;
  Lengths num_new;
  std::int64_t page_size;
  std::int64_t num_heads;
  std::int64_t num_key_heads;
  std::int64_t head_dim;
};

const std::vector<Case> kCases{
    {{}, {}, 4, 2, 2, 8},
    {{5}, {0}, 4, 2, 2, 8},
    {{1}, {1}, 1, 2, 2, 8},
    {{7, 3, 31, 32, 33}, {1, 0, 1, 1, 1}, 4, 4, 4, 17},
    {{511, 512, 513, 1500}, {1, 1, 1, 1}, 16, 8, 2, 64}, // decode over several splits
    {{40, 600, 9}, {40, 70, 2}, 7, 5, 1, 24},            // prefill in chunks
    {{1100}, {100}, 16, 6, 2, 128},
};

TEST(PagedAttention, FollowsTheFormulaInEveryDtypeAndLayout) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Case& c : kCases) {
      const Cache cache = make_cache(c.lengths, c.page_size, c.num_key_heads, c.head_dim, dtype);
      std::int64_t tokens = 0;
      for (const std::int64_t length : c.num_new) {
        tokens += length;
      }
      // A strided view, as of a joint projection.
      const at::Tensor q = at::randn({tokens, 2 * c.num_heads, c.head_dim}, at::kDouble)
                               .to(dtype)
                               .narrow(1, 0, c.num_heads);
      const at::Tensor got = attend(cache, q, c.num_new);
      EXPECT_EQ(got.scalar_type(), dtype);
      ASSERT_EQ(got.sizes(), q.sizes());
      if (tokens > 0) {
        const at::Tensor error = (got.to(at::kDouble) - plain(cache, q, c.num_new)).abs().max();
        EXPECT_LE(error.item<double>(), tolerance(dtype))
            << c10::toString(dtype) << " lengths " << c.lengths << " new " << c.num_new;
      }
    }
  }
}

TEST(PagedAttention, EqualBitsForOneAndTwoThreads) {
  const int threads = at::get_num_threads();
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Cache cache = make_cache({1500, 30, 700}, 16, 2, 64, dtype);
    const at::Tensor q = at::randn({72, 8, 64}, at::kDouble).to(dtype);
    at::set_num_threads(1);
    const at::Tensor one = attend(cache, q, {1, 1, 70});
    at::set_num_threads(2);
    EXPECT_TRUE(at::equal(attend(cache, q, {1, 1, 70}), one));
  }
  at::set_num_threads(threads);
}

TEST(PagedAttention, StepsGiveTheBitsOfAChunk) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Cache cache = make_cache({1100}, 16, 2, 64, dtype);
    const at::Tensor q = at::randn({90, 8, 64}, at::kDouble).to(dtype);
    const at::Tensor chunk = attend(cache, q, {90});
    for (const std::int64_t token : {0, 1, 37, 89}) {
      cache.lengths = {1010 + token + 1};
      EXPECT_TRUE(at::equal(attend(cache, q.narrow(0, token, 1), {1}), chunk.narrow(0, token, 1)))
          << token;
    }
  }
}

TEST(PagedAttention, WorksInInferenceMode) {
  const c10::InferenceMode inference;
  const Cache cache = make_cache({20, 5}, 4, 2, 16, at::kFloat);
  const at::Tensor out = attend(cache, at::randn({3, 4, 16}, at::kFloat), {2, 1});
  EXPECT_TRUE(out.isfinite().all().item<bool>());
}

TEST(PagedWrite, ConvertsAndLeavesTheRestAlone) {
  at::Tensor k_pages = at::full({3, 4, 1, 2}, 9, at::kBFloat16);
  at::Tensor v_pages = k_pages.clone();
  const at::Tensor table = at::tensor(Lengths{2, 0}, at::kLong).to(at::kInt).view({1, 2});
  const at::Tensor k = at::arange(6, at::kFloat).view({3, 1, 2});
  paged_write_(
      k_pages,
      v_pages,
      k,
      k + 10,
      table,
      make_layout_from_lengths({3}).starts_B1,
      int32_vector({3}));
  EXPECT_TRUE(at::equal(k_pages[2][3].to(at::kFloat), k[0]));
  EXPECT_TRUE(at::equal(k_pages[0].narrow(0, 0, 2).to(at::kFloat), k.narrow(0, 1, 2)));
  EXPECT_TRUE(at::equal(v_pages[0][1].to(at::kFloat), k[2] + 10));
  EXPECT_EQ(k_pages.eq(9).sum().item<std::int64_t>(), 24 - 6);
}

template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(PagedAttention, SaysWhatIsWrong) {
  Cache cache = make_cache({20, 5}, 4, 2, 16, at::kFloat);
  const at::Tensor q = at::randn({3, 4, 16}, at::kFloat);
  EXPECT_NE(
      refusal([&] {
        attend(cache, q.to(at::kDouble), {2, 1});
      }).find("one dtype"),
      std::string::npos);
  EXPECT_NE(
      refusal([&] {
        attend(cache, q.narrow(1, 0, 3), {2, 1});
      }).find("multiple of their heads"),
      std::string::npos);
  cache.lengths = {21, 5};
  EXPECT_NE(
      refusal([&] {
        attend(cache, q, {2, 1});
      }).find("sequence 0 has 21 tokens"),
      std::string::npos);
  cache.lengths = {20, 5};
  cache.page_table_BM[1][1] = 99;
  EXPECT_NE(
      refusal([&] {
        attend(cache, q, {2, 1});
      }).find("page 1 of sequence 1"),
      std::string::npos);
  EXPECT_NE(
      refusal([&] {
        attend(cache, q.clone().requires_grad_(), {2, 1});
      }).find("no derivative"),
      std::string::npos);
}

} // namespace
} // namespace baton::ops
