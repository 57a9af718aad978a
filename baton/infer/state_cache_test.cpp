// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/state_cache.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace baton::infer {
namespace {

using nn::StateKind;
using nn::StateSpec;

std::vector<StateSpec> hybrid_specs() {
  return {
      {"layers.0.mixer.conv", {6, 3}, at::kBFloat16, StateKind::kFixedSlot, 1},
      {"layers.0.mixer.ssm", {2, 4, 5}, at::kFloat, StateKind::kFixedSlot, 1},
      {"layers.1.attention.keys", {2, 8}, at::kFloat, StateKind::kGrowsByToken, 1},
      {"layers.1.attention.values", {2, 8}, at::kBFloat16, StateKind::kGrowsByToken, 1}};
}

template <class Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

void expect_holds(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos)
      << "\"" << part << "\" is not in \"" << text << "\"";
}

std::vector<std::int32_t> pages_of(const StateCache& cache, std::int32_t slot) {
  const std::vector<std::int32_t> slots = {slot};
  const at::Tensor table_BM = cache.view(slots).page_table_BM;
  const auto* data = table_BM.const_data_ptr<std::int32_t>();
  return {data, data + table_BM.numel()};
}

TEST(StateCache, AllocatesWhatTheSpecsSay) {
  const StateCache cache(hybrid_specs(), {3, 5, 4});
  const nn::CacheView view = cache.view({});
  EXPECT_EQ(view.tensors.size(), 4U);
  EXPECT_EQ(view.at("layers.0.mixer.conv").sizes(), (std::vector<std::int64_t>{3, 6, 3}));
  EXPECT_EQ(view.at("layers.0.mixer.conv").scalar_type(), at::kBFloat16);
  EXPECT_EQ(view.at("layers.0.mixer.ssm").sizes(), (std::vector<std::int64_t>{3, 2, 4, 5}));
  EXPECT_EQ(view.at("layers.1.attention.keys").sizes(), (std::vector<std::int64_t>{5, 4, 2, 8}));
  EXPECT_EQ(view.page_size, 4);
  EXPECT_EQ(view.page_table_BM.sizes(), (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(cache.num_bytes(), 3 * 18 * 2 + 3 * 40 * 4 + 5 * 4 * 16 * 4 + 5 * 4 * 16 * 2);
  EXPECT_EQ(cache.num_free_slots(), 3);
  EXPECT_EQ(cache.num_free_pages(), 5);
}

TEST(StateCache, ASequenceStartsFromZeroStates) {
  StateCache cache(hybrid_specs(), {2, 4, 4});
  const std::int32_t first = cache.acquire();
  const std::int32_t second = cache.acquire();
  for (const auto& [name, tensor] : cache.view({}).tensors) {
    tensor.fill_(3);
  }
  cache.release(first);
  ASSERT_EQ(cache.acquire(), first);
  const at::Tensor ssm = cache.view({}).at("layers.0.mixer.ssm");
  EXPECT_TRUE(ssm[first].eq(0).all().item<bool>());
  EXPECT_TRUE(ssm[second].eq(3).all().item<bool>()) << "another sequence's states were touched";
  EXPECT_TRUE(cache.view({}).at("layers.0.mixer.conv")[first].eq(0).all().item<bool>());
}

TEST(StateCache, PagesComeOnlyWhenThoseHeldAreFull) {
  StateCache cache(hybrid_specs(), {1, 4, 4});
  const std::int32_t slot = cache.acquire();
  EXPECT_TRUE(pages_of(cache, slot).empty());
  const std::vector<std::int64_t> pages_at_length = {0, 1, 1, 1, 1, 2, 2, 2, 2, 3};
  for (std::size_t length = 1; length < pages_at_length.size(); ++length) {
    cache.grow(slot, 1);
    EXPECT_EQ(cache.length(slot), static_cast<std::int64_t>(length));
    EXPECT_EQ(static_cast<std::int64_t>(pages_of(cache, slot).size()), pages_at_length[length]);
  }
  cache.grow(slot, 0);
  EXPECT_EQ(cache.length(slot), 9);
  cache.grow(slot, 7);
  EXPECT_EQ(pages_of(cache, slot).size(), 4U);
}

TEST(StateCache, ThePageTableFollowsTheBatch) {
  StateCache cache(hybrid_specs(), {3, 8, 2});
  const std::int32_t a = cache.acquire();
  const std::int32_t b = cache.acquire();
  const std::int32_t c = cache.acquire();
  cache.grow(a, 5);
  cache.grow(b, 1);
  const std::vector<std::int32_t> slots = {b, c, a};
  const at::Tensor table_BM = cache.view(slots).page_table_BM;
  EXPECT_EQ(table_BM.scalar_type(), at::kInt);
  EXPECT_TRUE(table_BM.equal(at::tensor({3, -1, -1, -1, -1, -1, 0, 1, 2}, at::kInt).view({3, 3})));
  const std::vector<std::int32_t> twice = {a, b, a};
  expect_holds(error_of([&] { cache.view(twice); }), "stands twice in one batch");
}

TEST(StateCache, SaysWhatIsFullAndChangesNothing) {
  StateCache cache(hybrid_specs(), {2, 3, 4});
  const std::int32_t slot = cache.acquire();
  const std::int32_t other = cache.acquire();
  expect_holds(error_of([&] { cache.acquire(); }), "the cache holds 2 sequences");
  cache.grow(slot, 5);
  EXPECT_TRUE(cache.has_room(other, 4));
  EXPECT_FALSE(cache.has_room(other, 5));
  expect_holds(error_of([&] { cache.grow(other, 5); }), "the cache holds 12 tokens (3 pages of 4)");
  EXPECT_EQ(cache.length(other), 0);
  EXPECT_EQ(cache.num_free_pages(), 1);
  EXPECT_TRUE(cache.has_room(slot, 7)) << "the rest of its last page, and the free one";
}

TEST(StateCache, WithoutGrowingStatesLengthIsFree) {
  const std::vector<StateSpec> specs = {{"ssm", {4}, at::kFloat, StateKind::kFixedSlot, 1}};
  StateCache cache(specs, {2, 0, 16});
  const std::int32_t slot = cache.acquire();
  cache.grow(slot, 1000000);
  EXPECT_EQ(cache.length(slot), 1000000);
  const std::vector<std::int32_t> slots = {slot};
  EXPECT_EQ(cache.view(slots).page_table_BM.sizes(), (std::vector<std::int64_t>{1, 0}));
  EXPECT_EQ(StateCache({}, {1, 0, 1}).num_bytes(), 0);
}

TEST(StateCache, RefusesSlotsThatHoldNoSequence) {
  StateCache cache(hybrid_specs(), {2, 2, 2});
  const std::int32_t slot = cache.acquire();
  cache.release(slot);
  expect_holds(error_of([&] { cache.release(slot); }), "slot 0 holds no sequence");
  expect_holds(error_of([&] { cache.grow(slot, 1); }), "holds no sequence");
  expect_holds(error_of([&] { cache.length(2); }), "[0, 2): 2");
  expect_holds(error_of([&] { cache.length(-1); }), "[0, 2): -1");
  const std::int32_t again = cache.acquire();
  expect_holds(error_of([&] { cache.grow(again, -1); }), "at least 0 tokens");
  expect_holds(error_of([&] { cache.grow(again, INT64_MAX); }), "at most");
}

TEST(StateCache, ConfigsAreChecked) {
  EXPECT_THROW(StateCache(hybrid_specs(), {0, 1, 1}), c10::Error);
  EXPECT_THROW(StateCache(hybrid_specs(), {1, -1, 1}), c10::Error);
  EXPECT_THROW(StateCache(hybrid_specs(), {1, 1, 0}), c10::Error);
  std::vector<StateSpec> twice = hybrid_specs();
  twice.push_back(twice.front());
  expect_holds(error_of([&] { StateCache(twice, {1, 1, 1}); }), "layers.0.mixer.conv");
}

TEST(StateCache, PagesNeeded) {
  EXPECT_EQ(pages_needed(3, 0, 4), 0);
  EXPECT_EQ(pages_needed(3, 1, 4), 3);
  EXPECT_EQ(pages_needed(3, 4, 4), 3);
  EXPECT_EQ(pages_needed(3, 5, 4), 6);
  EXPECT_THROW(pages_needed(1 << 20, 1 << 20, 1), c10::Error);
  EXPECT_THROW(pages_needed(1, -1, 1), c10::Error);
}

// Random use against a plain model: every page belongs to at most one sequence, pages of a sequence
// never change, numbers add up, and refusals happen exactly when the model says so.
TEST(StateCache, RandomUseKeepsItsBooks) {
  constexpr std::int64_t kSlots = 5;
  constexpr std::int64_t kPages = 12;
  constexpr std::int64_t kPageSize = 3;
  struct Expected {
    std::int64_t length = 0;
    std::vector<std::int32_t> pages;
  };
  std::mt19937 random(17);
  StateCache cache(hybrid_specs(), {kSlots, kPages, kPageSize});
  std::map<std::int32_t, Expected> model;
  std::int64_t used = 0;
  int refused = 0;
  for (int step = 0; step < 4000; ++step) {
    const auto action = random() % 8;
    if (action == 0) {
      if (static_cast<std::int64_t>(model.size()) == kSlots) {
        EXPECT_THROW(cache.acquire(), c10::Error);
      } else {
        EXPECT_TRUE(model.try_emplace(cache.acquire()).second) << "a slot was given out twice";
      }
    } else if (!model.empty()) {
      const auto chosen = std::next(model.begin(), random() % model.size());
      Expected& expected = chosen->second;
      if (action == 1) {
        cache.release(chosen->first);
        used -= static_cast<std::int64_t>(expected.pages.size());
        model.erase(chosen);
      } else {
        const std::int64_t tokens = random() % 5;
        const auto held = static_cast<std::int64_t>(expected.pages.size());
        const std::int64_t total = (expected.length + tokens + kPageSize - 1) / kPageSize;
        const bool fits = used + total - held <= kPages;
        EXPECT_EQ(cache.has_room(chosen->first, tokens), fits);
        if (fits) {
          cache.grow(chosen->first, tokens);
          expected.length += tokens;
          used += total - held;
        } else {
          EXPECT_THROW(cache.grow(chosen->first, tokens), c10::Error);
          ++refused;
        }
        const std::vector<std::int32_t> pages = pages_of(cache, chosen->first);
        ASSERT_EQ(static_cast<std::int64_t>(pages.size()), fits ? total : held);
        EXPECT_TRUE(std::equal(expected.pages.begin(), expected.pages.end(), pages.begin()));
        expected.pages = pages;
      }
    }
    std::set<std::int32_t> pages;
    for (const auto& [slot, expected] : model) {
      EXPECT_EQ(cache.length(slot), expected.length);
      for (const std::int32_t page : expected.pages) {
        EXPECT_TRUE(page >= 0 && page < kPages && pages.insert(page).second) << "page " << page;
      }
    }
    EXPECT_EQ(cache.num_free_pages(), kPages - used);
    EXPECT_EQ(cache.num_free_slots(), kSlots - static_cast<std::int64_t>(model.size()));
  }
  EXPECT_GT(refused, 50) << "the cache was never full";
}

} // namespace
} // namespace baton::infer
