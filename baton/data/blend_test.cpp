// SPDX-License-Identifier: Apache-2.0
#include "baton/data/blend.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/data/packer.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

constexpr std::int64_t kVocabulary = 1 << 20;

// A set whose documents have random lengths from 0 to `longest`. Each token is 1000 times the set's
// number plus the document's.
std::shared_ptr<const IndexedDataset>
make_set(const ScratchFolder& folder, int set, int documents, std::uint32_t longest) {
  Documents all;
  for (int i = 0; i < documents; ++i) {
    const auto words =
        philox(RandomKey(static_cast<std::uint64_t>(set)), static_cast<std::uint64_t>(i));
    all.emplace_back(words[0] % (longest + 1), 1000 * set + i);
  }
  all.front().resize(longest, 1000 * set);
  const std::string prefix = folder / ("set" + std::to_string(set));
  write_dataset(prefix, all, {}, TokenType::kInt32);
  return std::make_shared<const IndexedDataset>(prefix);
}

Packer packer_of(std::shared_ptr<const Blend> blend, std::int64_t tokens, std::uint64_t seed = 9) {
  return Packer(
      std::move(blend),
      {.tokens_per_microbatch = tokens, .vocab_size = kVocabulary, .shuffle_seed = seed});
}

TEST(Blend, NoSetStraysFromItsShare) {
  const ScratchFolder folder;
  const std::vector<double> weights{3.0, 1.0, 0.5};
  const std::vector<std::uint32_t> longest{40, 7, 100};
  const auto blend = std::make_shared<const Blend>(
      std::vector{
          make_set(folder, 0, 50, longest[0]),
          make_set(folder, 1, 200, longest[1]),
          make_set(folder, 2, 9, longest[2])},
      weights);
  const Packer packer = packer_of(blend, 33);
  LoaderState state = packer.start();
  std::vector<double> counted(3, 0.0);
  for (int i = 0; i < 2000; ++i) {
    const PackedTokens packed = packer.pack(state);
    ASSERT_EQ(packed.tokens.size(), 33U);
    for (const std::int64_t token : packed.tokens) {
      counted[static_cast<std::size_t>(token / 1000)] += 1.0;
    }
    const auto total = static_cast<double>(state.tokens());
    ASSERT_EQ(total, 33.0 * (i + 1));
    for (std::size_t set = 0; set < 3; ++set) {
      ASSERT_EQ(static_cast<double>(state.sets[set].tokens), counted[set]);
      const double wanted = total * weights[set] / 4.5;
      // Ahead by its own document under way at most, behind by those of the others.
      ASSERT_LE(counted[set] - wanted, longest[set]);
      ASSERT_LE(wanted - counted[set], longest[0] + longest[1] + longest[2]);
    }
  }
  EXPECT_GT(state.sets[0].epoch, 10);
}

TEST(Blend, EverySetHasWholeEpochsOfItsOwn) {
  const ScratchFolder folder;
  const auto blend = std::make_shared<const Blend>(
      std::vector{make_set(folder, 0, 30, 12), make_set(folder, 1, 70, 5)}, std::vector{1.0, 2.0});
  const Packer packer = packer_of(blend, 10);
  LoaderState state = packer.start();
  // The order in which each set's documents begin.
  std::vector<std::vector<std::int64_t>> order(2);
  while (state.sets[0].epoch < 3 || state.sets[1].epoch < 3) {
    for (const PackedTokens::Piece& piece : packer.pack(state).pieces) {
      if (piece.first == 0) {
        order[piece.set].push_back(piece.document);
      }
    }
  }
  for (std::size_t set = 0; set < 2; ++set) {
    std::vector<std::int64_t> whole;
    for (std::int64_t i = 0; i < blend->dataset(set).num_documents(); ++i) {
      if (blend->dataset(set).document_length(i) > 0) {
        whole.push_back(i);
      }
    }
    const auto size = static_cast<std::ptrdiff_t>(whole.size());
    std::vector<std::vector<std::int64_t>> epochs;
    for (std::ptrdiff_t epoch = 0; epoch < 3; ++epoch) {
      const auto begin = order[set].begin() + epoch * size;
      epochs.emplace_back(begin, begin + size);
      auto sorted = epochs.back();
      std::sort(sorted.begin(), sorted.end());
      EXPECT_EQ(sorted, whole);
    }
    EXPECT_NE(epochs[0], epochs[1]);
    EXPECT_NE(epochs[1], epochs[2]);
  }
}

TEST(Blend, ASetAloneIsWalkedAsEver) {
  // The order is a promise: checkpoints of older runs go on in it.
  const ScratchFolder folder;
  const auto set = make_set(folder, 0, 40, 12);
  const Packer packer = packer_of(std::make_shared<const Blend>(std::vector{set}), 1 << 10, 77);
  LoaderState state = packer.start();
  std::vector<std::int64_t> walked;
  for (const PackedTokens::Piece& piece : packer.pack(state).pieces) {
    walked.push_back(piece.document);
  }
  std::vector<std::int64_t> expected;
  for (std::int64_t epoch = 0; expected.size() < walked.size(); ++epoch) {
    const DocumentOrder order = DocumentOrder::shuffled(set->num_documents(), 77, epoch);
    for (std::int64_t i = 0; i < order.count(); ++i) {
      if (set->document_length(order.at(i)) > 0) {
        expected.push_back(order.at(i));
      }
    }
  }
  expected.resize(walked.size());
  EXPECT_EQ(walked, expected);
}

TEST(Blend, ResumesToTheTokenAndSkipsAsItPacks) {
  const ScratchFolder folder;
  const auto blend = std::make_shared<const Blend>(
      std::vector{
          make_set(folder, 0, 20, 50), make_set(folder, 1, 30, 3), make_set(folder, 2, 5, 90)},
      std::vector{0.2, 0.5, 0.3});
  const Packer packer = packer_of(blend, 7);
  LoaderState state = packer.start();
  for (std::int64_t i = 0; i < 500; ++i) {
    LoaderState skipped = packer.start();
    packer.skip(skipped, i);
    ASSERT_EQ(skipped, state);
    ASSERT_NO_THROW(packer.check(state));
    LoaderState resumed = loader_state_from_json(to_json(state));
    ASSERT_EQ(resumed, state);
    const PackedTokens packed = packer.pack(state);
    ASSERT_EQ(packer.pack(resumed).tokens, packed.tokens);
  }
}

TEST(Blend, WithoutWeightsEpochsEndTogether) {
  const ScratchFolder folder;
  const auto blend = std::make_shared<const Blend>(
      std::vector{make_set(folder, 0, 100, 9), make_set(folder, 1, 20, 9)});
  EXPECT_NEAR(blend->share(0) + blend->share(1), 1.0, 1e-15);
  const Packer packer = packer_of(blend, blend->num_tokens());
  LoaderState state = packer.start();
  packer.pack(state);
  for (std::size_t set = 0; set < 2; ++set) {
    EXPECT_NEAR(
        static_cast<double>(state.sets[set].tokens),
        static_cast<double>(blend->dataset(set).num_tokens()),
        9.0);
  }
}

TEST(Blend, MasksCountAllTokensOfSetsWithoutOne) {
  const ScratchFolder folder;
  write_dataset(folder / "a", {{1, 2, 3}}, {{0, 1, 0}});
  write_dataset(folder / "b", {{7, 8, 9}});
  const auto blend = std::make_shared<const Blend>(open_blend({folder / "a", folder / "b"}, {}));
  EXPECT_TRUE(blend->has_mask());
  const Packer packer = packer_of(blend, 6);
  LoaderState state = packer.start();
  const PackedTokens packed = packer.pack(state);
  EXPECT_EQ(packed.tokens, (std::vector<std::int64_t>{1, 2, 3, 7, 8, 9}));
  EXPECT_EQ(packed.mask, (std::vector<float>{1, 0, 0, 1, 1, 0}));
}

TEST(Blend, OtherSetsOrSharesAreRefusedByName) {
  const ScratchFolder folder;
  const auto a = make_set(folder, 0, 20, 5);
  const auto b = make_set(folder, 1, 20, 5);
  const auto blend_of = [](std::vector<Blend::Dataset> sets, std::vector<double> weights) {
    return std::make_shared<const Blend>(std::move(sets), weights);
  };
  LoaderState state = packer_of(blend_of({a, b}, {1.0, 3.0}), 10).start();
  const auto refusal = [&](std::shared_ptr<const Blend> blend, std::uint64_t seed = 9) {
    return error_of([&] { packer_of(std::move(blend), 10, seed).check(state); });
  };
  const std::string begin = "cannot continue in this data: ";
  EXPECT_EQ(
      refusal(blend_of({a, b}, {1.0, 1.0})),
      begin + "the share of " + (folder / "set0") + " was 0.25 and is 0.5");
  EXPECT_EQ(refusal(blend_of({a}, {})), begin + "the number of data sets was 2 and is 1");
  EXPECT_EQ(refusal(blend_of({a, b}, {1.0, 3.0}), 8), begin + "the seed was 9 and is 8");
  EXPECT_NE(
      refusal(blend_of({b, a}, {1.0, 3.0})).find("the number of tokens of"), std::string::npos);
  EXPECT_NO_THROW(packer_of(blend_of({a, b}, {2.0, 6.0}), 10).check(state));

  EXPECT_EQ(
      error_of([&] {
        blend_of({a, b}, {1.0});
      }),
      "a weight for each data set is needed: 1 weights for 2 sets");
  EXPECT_EQ(
      error_of([&] {
        blend_of({a, b}, {1.0, 0.0});
      }),
      "the weight of a data set must be above 0: 0.0");
  EXPECT_THROW(blend_of({a, b}, {1.0, std::nan("")}), Error);
  EXPECT_EQ(error_of([&] { blend_of({}, {}); }), "no data set to train on");
  EXPECT_EQ(
      error_of([&] {
        blend_of({a, a}, {});
      }),
      folder / "set0" + ": this data set is named twice");
}

} // namespace
} // namespace baton
