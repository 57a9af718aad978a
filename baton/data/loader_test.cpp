// SPDX-License-Identifier: Apache-2.0
#include "baton/data/loader.h"

#include <map>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/random.h"
#include "baton/data/scratch_folder.h"

namespace baton {
namespace {

constexpr std::int64_t kVocabulary = 1 << 20;

// Every token of the data has an id of its own, so that it can be followed.
Documents numbered_documents(const std::vector<int>& lengths) {
  Documents documents;
  std::int32_t next = 0;
  for (const int length : lengths) {
    documents.emplace_back(static_cast<std::size_t>(length));
    std::iota(documents.back().begin(), documents.back().end(), next);
    next += length;
  }
  return documents;
}

std::vector<int> random_lengths(RandomKey key, int count, int longest) {
  std::vector<int> lengths;
  for (int i = 0; i < count; ++i) {
    lengths.push_back(
        static_cast<int>(philox(key, static_cast<std::uint64_t>(i))[0] % (longest + 1)));
  }
  lengths.push_back(1); // never a dataset without tokens
  return lengths;
}

std::shared_ptr<const IndexedDataset>
open_dataset(const ScratchFolder& folder, const Documents& documents, const Masks& masks = {}) {
  write_dataset(folder / "d", documents, masks, TokenType::kInt32);
  return std::make_shared<const IndexedDataset>(folder / "d");
}

std::shared_ptr<const Blend> alone(std::shared_ptr<const IndexedDataset> dataset) {
  return std::make_shared<const Blend>(std::vector{std::move(dataset)});
}

std::vector<std::int64_t> values(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<std::int64_t>();
  return {data, data + tensor.numel()};
}

bool same(const Microbatch& a, const Microbatch& b) {
  return a.index == b.index && a.tokens_T.equal(b.tokens_T) && a.labels_T.equal(b.labels_T) &&
         a.layout.starts_B1.equal(b.layout.starts_B1) &&
         a.layout.first_positions_B.equal(b.layout.first_positions_B) && a.targets == b.targets &&
         a.mask_T.has_value() == b.mask_T.has_value() && (!a.mask_T || a.mask_T->equal(*b.mask_T));
}

LoaderConfig config_of(std::int64_t tokens, std::uint64_t seed = 5) {
  return {.tokens_per_microbatch = tokens, .vocab_size = kVocabulary, .seed = seed};
}

// Where each token id stands: (document, position).
std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> places(const Documents& documents) {
  std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> found;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    for (std::size_t k = 0; k < documents[i].size(); ++k) {
      found[documents[i][k]] = {static_cast<std::int64_t>(i), static_cast<std::int64_t>(k)};
    }
  }
  return found;
}

// Checks one microbatch against the documents: pieces are runs of one document, positions continue,
// labels are the next tokens of the document.
void check_microbatch(const Microbatch& microbatch, const Documents& documents) {
  const auto place = places(documents);
  const auto tokens = values(microbatch.tokens_T);
  const auto labels = values(microbatch.labels_T);
  const auto positions = values(microbatch.layout.positions());
  const auto starts = checked_starts(microbatch.layout.starts_B1, microbatch.layout.num_tokens);
  ASSERT_EQ(tokens.size(), labels.size());
  ASSERT_EQ(microbatch.layout.num_tokens, static_cast<std::int64_t>(tokens.size()));
  std::int64_t targets = 0;
  for (std::size_t piece = 0; piece + 1 < starts.size(); ++piece) {
    ASSERT_LT(starts[piece], starts[piece + 1]);
    const std::int64_t document = place.at(tokens[static_cast<std::size_t>(starts[piece])]).first;
    for (auto i = static_cast<std::size_t>(starts[piece]);
         i < static_cast<std::size_t>(starts[piece + 1]);
         ++i) {
      const auto [own_document, position] = place.at(tokens[i]);
      ASSERT_EQ(own_document, document);
      ASSERT_EQ(position, positions[i]);
      const auto& whole = documents[static_cast<std::size_t>(document)];
      const auto next = static_cast<std::size_t>(position) + 1;
      ASSERT_EQ(labels[i], next < whole.size() ? whole[next] : -100);
      targets += labels[i] != -100 ? 1 : 0;
    }
  }
  EXPECT_EQ(microbatch.targets, targets);
}

TEST(Loader, EveryTokenOnceAnEpochAndNothingPadded) {
  for (std::uint64_t trial = 0; trial < 40; ++trial) {
    const ScratchFolder folder;
    const RandomKey key = RandomKey(11).with(trial);
    const auto words = philox(key, 99);
    const Documents documents = numbered_documents(random_lengths(key, 12, 30));
    const auto dataset = open_dataset(folder, documents);
    const std::int64_t total = dataset->num_tokens();
    const std::int64_t length = 1 + words[0] % 70;
    Loader loader(alone(dataset), config_of(length, trial));

    // Three epochs, in one stream: epoch e is tokens [e * total, (e + 1) * total).
    std::vector<std::int64_t> stream;
    std::vector<std::int64_t> targets;
    for (std::int64_t i = 0; static_cast<std::int64_t>(stream.size()) < 3 * total; ++i) {
      const Microbatch microbatch = loader.next();
      ASSERT_EQ(microbatch.index, i);
      ASSERT_EQ(microbatch.tokens_T.numel(), length);
      ASSERT_NO_FATAL_FAILURE(check_microbatch(microbatch, documents));
      for (const std::int64_t token : values(microbatch.tokens_T)) {
        stream.push_back(token);
      }
      ASSERT_EQ(loader.state().tokens(), static_cast<std::int64_t>(stream.size()));
      ASSERT_EQ(loader.state().microbatch, i + 1);
    }
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<std::int64_t> seen(
          stream.begin() + epoch * total, stream.begin() + (epoch + 1) * total);
      std::sort(seen.begin(), seen.end());
      for (std::int64_t i = 0; i < total; ++i) {
        ASSERT_EQ(seen[static_cast<std::size_t>(i)], i);
      }
    }
  }
}

TEST(Loader, EpochsAreShuffledDifferently) {
  const ScratchFolder folder;
  const auto dataset = open_dataset(folder, numbered_documents(std::vector<int>(50, 1)));
  Loader loader(alone(dataset), config_of(50));
  const auto first = loader.next();
  const auto second = loader.next();
  Loader other(alone(dataset), config_of(50, 6));
  EXPECT_FALSE(first.tokens_T.equal(second.tokens_T));
  EXPECT_FALSE(first.tokens_T.equal(other.next().tokens_T));
  EXPECT_FALSE(first.tokens_T.equal(at::arange(50)));
}

TEST(Loader, CutDocumentContinuesInTheNextMicrobatch) {
  const ScratchFolder folder;
  const auto dataset = open_dataset(folder, numbered_documents({7}));
  Loader loader(alone(dataset), config_of(3));
  EXPECT_EQ(values(loader.next().labels_T), (std::vector<std::int64_t>{1, 2, 3}));
  const Microbatch second = loader.next();
  EXPECT_EQ(values(second.tokens_T), (std::vector<std::int64_t>{3, 4, 5}));
  EXPECT_EQ(values(second.labels_T), (std::vector<std::int64_t>{4, 5, 6}));
  EXPECT_EQ(second.layout.sequences[0].first_position, 3);
  const Microbatch third = loader.next(); // the end of one epoch and the beginning of the next
  EXPECT_EQ(values(third.tokens_T), (std::vector<std::int64_t>{6, 0, 1}));
  EXPECT_EQ(values(third.labels_T), (std::vector<std::int64_t>{-100, 1, 2}));
  EXPECT_EQ(values(third.layout.positions()), (std::vector<std::int64_t>{6, 0, 1}));
  EXPECT_EQ(third.targets, 2);
}

TEST(Loader, ResumesAtAnyMicrobatch) {
  const ScratchFolder folder;
  const Documents documents = numbered_documents(random_lengths(RandomKey(4), 10, 20));
  const auto dataset = open_dataset(folder, documents);
  const LoaderConfig config = config_of(13);
  std::vector<Microbatch> straight;
  std::vector<LoaderState> states;
  Loader loader(alone(dataset), config);
  for (int i = 0; i < 30; ++i) {
    states.push_back(loader.state());
    straight.push_back(loader.next());
  }
  for (std::size_t i = 0; i < straight.size(); ++i) {
    Loader resumed(alone(dataset), config);
    resumed.restore(loader_state_from_json(to_json(states[i])));
    for (std::size_t k = i; k < std::min(i + 4, straight.size()); ++k) {
      EXPECT_TRUE(same(resumed.next(), straight[k]));
    }
  }
  loader.restore(states[1]);
  EXPECT_TRUE(same(loader.next(), straight[1]));
}

TEST(Loader, RanksShareTheMicrobatchesOut) {
  const ScratchFolder folder;
  const auto blend =
      alone(open_dataset(folder, numbered_documents(random_lengths(RandomKey(6), 20, 30))));
  std::vector<Microbatch> straight;
  std::vector<LoaderState> states;
  Loader loader(blend, config_of(11));
  for (int i = 0; i < 60; ++i) {
    states.push_back(loader.state());
    straight.push_back(loader.next());
  }
  for (const std::int64_t count : {1, 2, 3, 5}) {
    for (std::int64_t rank = 0; rank < count; ++rank) {
      LoaderConfig config = config_of(11);
      config.rank = rank;
      config.count = count;
      Loader own(blend, config);
      for (std::int64_t round = 0; round < 6; ++round) {
        EXPECT_EQ(own.state(), states[static_cast<std::size_t>(round * count)]);
        EXPECT_TRUE(same(own.next(), straight[static_cast<std::size_t>(round * count + rank)]));
      }
      // A state that another number of ranks left.
      own.restore(states[7]);
      EXPECT_TRUE(same(own.next(), straight[static_cast<std::size_t>(7 + rank)]));
    }
  }
  for (std::int64_t rank = 0; rank < 2; ++rank) {
    LoaderConfig config = config_of(11);
    config.rank = rank;
    config.count = 2;
    config.block = 3;
    Loader own(blend, config);
    for (std::size_t round = 0; round < 5; ++round) {
      EXPECT_EQ(own.state(), states[6 * round]);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(same(own.next(), straight[6 * round + 3 * static_cast<std::size_t>(rank) + i]));
      }
    }
  }
  LoaderConfig config = config_of(11);
  config.block = 0;
  EXPECT_EQ(error_of([&] { Loader(blend, config); }), "a block must have a microbatch at least: 0");
  config.block = 1;
  config.rank = 1;
  EXPECT_EQ(
      error_of([&] { Loader(blend, config); }), "a rank must be one of 0 to count - 1: 1 of 1");
}

TEST(Loader, PrefetchDepthChangesNothing) {
  const ScratchFolder folder;
  const auto dataset =
      open_dataset(folder, numbered_documents(random_lengths(RandomKey(8), 40, 60)));
  LoaderConfig one = config_of(17);
  one.prefetch = 1;
  LoaderConfig many = config_of(17);
  many.prefetch = 16;
  Loader first(alone(dataset), one);
  Loader second(alone(dataset), many);
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(same(first.next(), second.next()));
    ASSERT_EQ(first.state(), second.state());
  }
}

TEST(Loader, MaskBelongsToTheLabel) {
  const ScratchFolder folder;
  const auto dataset = open_dataset(folder, {{10, 11, 12, 13}, {20, 21}}, {{0, 0, 1, 1}, {}});
  EvalLoader loader(dataset, 3, 100);
  const auto first = loader.next();
  ASSERT_TRUE(first && first->mask_T);
  EXPECT_TRUE(first->mask_T->equal(at::tensor({0.0F, 1.0F, 1.0F}))); // labels 11, 12, 13
  EXPECT_EQ(first->targets, 2);
  const auto second = loader.next();
  ASSERT_TRUE(second);
  EXPECT_EQ(values(second->labels_T), (std::vector<std::int64_t>{-100, 21, -100}));
  EXPECT_TRUE(second->mask_T->equal(at::tensor({0.0F, 1.0F, 0.0F})));
  EXPECT_EQ(second->targets, 1);
}

TEST(Loader, ErrorsReachTheCallerAndTheStateStays) {
  const ScratchFolder folder;
  const auto dataset = open_dataset(folder, {{1, 2, 3, 999, 5, 6}});
  LoaderConfig config = config_of(2);
  config.vocab_size = 10;
  Loader loader(alone(dataset), config);
  EXPECT_EQ(loader.state().microbatch, 0);
  EXPECT_EQ(values(loader.next().tokens_T), (std::vector<std::int64_t>{1, 2}));
  for (int attempt = 0; attempt < 2; ++attempt) {
    EXPECT_EQ(
        error_of([&] { loader.next(); }),
        folder / "d.bin" + ": token 3 of document 0 is 999, outside the vocabulary of 10");
    EXPECT_EQ(loader.state().microbatch, 1);
  }
  config.rank = 2;
  config.count = 3;
  EXPECT_EQ(
      values(Loader(alone(dataset), config).next().tokens_T), (std::vector<std::int64_t>{5, 6}));
}

TEST(Loader, RefusesBadConfigurationsAndStates) {
  const ScratchFolder folder;
  const auto dataset = open_dataset(folder, numbered_documents({3, 0, 4}));
  EXPECT_THROW(Loader(alone(dataset), config_of(0)), Error);
  LoaderConfig config = config_of(4);
  config.vocab_size = 0;
  EXPECT_THROW(Loader(alone(dataset), config), Error);
  config = config_of(4);
  config.prefetch = 0;
  EXPECT_THROW(Loader(alone(dataset), config), Error);

  Loader loader(alone(dataset), config_of(4));
  const auto refuses = [&loader](auto change) {
    LoaderState state = loader.state();
    change(state);
    EXPECT_THROW(loader.restore(state), Error);
  };
  refuses([](LoaderState& state) { state.seed += 1; });
  refuses([](LoaderState& state) { state.sets[0].dataset_tokens += 1; });
  refuses([](LoaderState& state) { state.sets[0].dataset_documents += 1; });
  refuses([](LoaderState& state) { state.sets[0].position = 4; });
  refuses([](LoaderState& state) { state.sets[0].offset = 5; });
  refuses([](LoaderState& state) { state.sets[0].offset = -1; });
  refuses([](LoaderState& state) { state.sets[0].share = 0.5; });
  refuses([](LoaderState& state) { state.microbatch = -1; });
  refuses([](LoaderState& state) { state.sets.clear(); });

  write_dataset(folder / "empty", {{}, {}});
  EXPECT_NE(
      error_of([&] {
        EvalLoader(std::make_shared<const IndexedDataset>(folder / "empty"), 4, 10);
      }).find("holds no tokens"),
      std::string::npos);
}

TEST(LoaderState, ReadsBackExactlyAndRefusesOtherJson) {
  LoaderState state;
  state.microbatch = 3;
  state.sets.resize(2);
  state.sets[1].offset = std::numeric_limits<std::int64_t>::max();
  state.sets[1].share = 0.1 + 0.2;
  state.seed = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(loader_state_from_json(to_json(state)), state);
  std::string json = to_json(state);
  for (const char* bad :
       {"",
        "[]",
        "{}",
        "{\"microbatch\": 1",
        R"({"microbatch":1,"seed":1})",
        R"({"microbatch":1,"seed":1,"sets":{}})",
        R"({"microbatch":1,"seed":1,"sets":[1]})",
        R"({"microbatch":1,"seed":1,"sets":[{}]})"}) {
    EXPECT_THROW(loader_state_from_json(bad), Error);
  }
  json.replace(json.find("\"microbatch\":3"), 14, "\"microbatch\":-3");
  EXPECT_NE(
      error_of([&] { loader_state_from_json(json); }).find("\"microbatch\""), std::string::npos);
}

TEST(EvalLoader, WalksTheDataOnceInItsOrder) {
  const ScratchFolder folder;
  const Documents documents = numbered_documents({3, 0, 5, 2});
  const auto dataset = open_dataset(folder, documents);
  for (const std::int64_t length : {1, 3, 4, 10, 100}) {
    EvalLoader loader(dataset, length, kVocabulary);
    for (int pass = 0; pass < 2; ++pass) {
      std::vector<std::int64_t> stream;
      while (const auto microbatch = loader.next()) {
        check_microbatch(*microbatch, documents);
        const auto tokens = values(microbatch->tokens_T);
        stream.insert(stream.end(), tokens.begin(), tokens.end());
      }
      EXPECT_EQ(stream, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
      EXPECT_FALSE(loader.next());
      loader.rewind();
    }
  }
}

} // namespace
} // namespace baton
