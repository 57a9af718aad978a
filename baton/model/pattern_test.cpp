// SPDX-License-Identifier: Apache-2.0
#include "baton/model/pattern.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::model {
namespace {

template <class Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string parse_error(const std::string& text) {
  return error_of([&] { parse_pattern(text); });
}

std::string split_error(const std::string& text, const PipelineSplit& split) {
  return error_of([&] { split_pipeline(parse_pattern(text), split); });
}

void expect_holds(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos)
      << "\"" << part << "\" is not in \"" << text << "\"";
}

// "rank.virtual:layers@offset ..." of all stages.
std::string stages_of(const std::string& text, const PipelineSplit& split) {
  std::string result;
  for (const PipelineStage& stage : split_pipeline(parse_pattern(text), split)) {
    result += (result.empty() ? "" : " ") + std::to_string(stage.rank) + "." +
              std::to_string(stage.virtual_stage) + ":" + stage.layers + "@" +
              std::to_string(stage.offset);
  }
  return result;
}

TEST(Pattern, ParsesTheMainPart) {
  const LayerPattern pattern = parse_pattern("M*M-EG");
  EXPECT_EQ(pattern.layers, "M*M-EG");
  EXPECT_EQ(pattern.segments, std::vector<std::string>{"M*M-EG"});
  EXPECT_FALSE(pattern.has_pipes());
  EXPECT_EQ(pattern.mtp, "");
  EXPECT_EQ(pattern.mtp_depth, 0);
  EXPECT_EQ(pattern.num_layers(), 6);
}

TEST(Pattern, ParsesSegments) {
  EXPECT_EQ(parse_pattern("M-|-*M").segments, (std::vector<std::string>{"M-", "-*M"}));
  EXPECT_EQ(parse_pattern("M-|-*M").layers, "M--*M");
  EXPECT_EQ(parse_pattern("||M").segments, (std::vector<std::string>{"", "", "M"}));
  EXPECT_EQ(parse_pattern("M||").segments, (std::vector<std::string>{"M", "", ""}));
  EXPECT_EQ(parse_pattern("|").layers, "");
}

TEST(Pattern, ParsesPredictionParts) {
  const LayerPattern pattern = parse_pattern("M*|M-/*-/*-/*-");
  EXPECT_EQ(pattern.layers, "M*M-");
  EXPECT_EQ(pattern.mtp, "*-");
  EXPECT_EQ(pattern.mtp_depth, 3);
}

TEST(Pattern, MayHoldPredictionPartsOnly) {
  const LayerPattern pattern = parse_pattern("/GM/GM");
  EXPECT_EQ(pattern.num_layers(), 0);
  EXPECT_EQ(pattern.segments, std::vector<std::string>{""});
  EXPECT_EQ(pattern.mtp, "GM");
  EXPECT_EQ(pattern.mtp_depth, 2);
  EXPECT_EQ(count_layers(pattern, LayerKind::kMamba), 2);
}

TEST(Pattern, EmptyPartsAreNone) {
  for (const char* text : {"", "/", "//"}) {
    const LayerPattern pattern = parse_pattern(text);
    EXPECT_EQ(pattern.num_layers(), 0) << text;
    EXPECT_EQ(pattern.mtp_depth, 0) << text;
  }
  EXPECT_EQ(parse_pattern("M*/").layers, "M*");
  EXPECT_EQ(parse_pattern("M*//").mtp_depth, 0);
}

TEST(Pattern, TextParsesBack) {
  for (const char* text : {"", "M", "||M", "M*M-|M*M-/M*", "/E/E", "M+D|-/D"}) {
    EXPECT_EQ(parse_pattern(text).text(), text);
  }
  EXPECT_EQ(parse_pattern("M/").text(), "M");
}

TEST(Pattern, UnknownSymbolsAreNamedWithTheirPosition) {
  expect_holds(parse_error("MMx-"), "symbol 'x' at position 3 (counted from 1)");
  expect_holds(parse_error("MMx-"), "M (Mamba-2), * (attention), - (MLP)");
  expect_holds(parse_error("m"), "'m' at position 1");
  expect_holds(parse_error("M|-/M "), "' ' at position 6");
  expect_holds(parse_error("M\xC3\xA9"), "'\xC3\xA9' at position 2");
  expect_holds(parse_error("M\xE2\x82"), "'\\xE2' at position 2");
  expect_holds(parse_error("MM\n"), "'\\x0A' at position 3");
  expect_holds(parse_error(std::string("M\0M", 3)), "'\\x00' at position 2");
  EXPECT_EQ(parse_error("MM\n").find('\n'), std::string::npos) << "an error is one line";
}

TEST(Pattern, PipesEndNoPredictionPart) {
  expect_holds(parse_error("M*/M|M"), "symbol '|' at position 5");
  expect_holds(parse_error("/|"), "symbol '|' at position 2");
}

TEST(Pattern, PredictionPartsMustBeEqual) {
  expect_holds(parse_error("M/M*/M-"), "prediction part 2 is 'M-'");
  expect_holds(parse_error("M/M*/M-"), "symbol '-' at position 7");
  expect_holds(parse_error("M/M*/M*/MM"), "prediction part 3");
  expect_holds(parse_error("M/MM/MMM"), "symbol 'M' at position 8");
  expect_holds(parse_error("M/MM/M"), "its end after position 6");
  expect_holds(parse_error("M/M/"), "prediction part 2 is ''");
  expect_holds(parse_error("M//M"), "prediction part 2 is 'M'");
}

TEST(Pattern, AttentionDoesNotMixWithLatentOrSparse) {
  expect_holds(parse_error("M*M+"), "'+' at position 4");
  expect_holds(parse_error("DM*"), "'*' at position 3");
  expect_holds(parse_error("M*/MD"), "'D' at position 5");
  expect_holds(parse_error("+|-/*"), "'*' at position 5");
  EXPECT_EQ(parse_pattern("M+D").layers, "M+D");
}

TEST(Pattern, IsLimitedInLength) {
  EXPECT_EQ(parse_pattern(std::string(kMaxPatternLayers, 'M')).num_layers(), kMaxPatternLayers);
  expect_holds(parse_error(std::string(kMaxPatternLayers + 1, 'M')), "at most 65536");
}

TEST(Pattern, CountsEveryKind) {
  const LayerPattern pattern = parse_pattern("M*M-|EGM/M*/M*");
  EXPECT_EQ(count_layers(pattern, LayerKind::kMamba), 5);
  EXPECT_EQ(count_layers(pattern, LayerKind::kAttention), 3);
  EXPECT_EQ(count_layers(pattern, LayerKind::kMlp), 1);
  EXPECT_EQ(count_layers(pattern, LayerKind::kMixtureOfExperts), 1);
  EXPECT_EQ(count_layers(pattern, LayerKind::kGatedDeltaNet), 1);
  EXPECT_EQ(count_layers(pattern, LayerKind::kLatentAttention), 0);
  EXPECT_EQ(count_layers(parse_pattern("+DD/D"), LayerKind::kSparseAttention), 3);
}

TEST(Pattern, EveryKindHasASymbolAndAName) {
  for (const LayerKind kind : kLayerKinds) {
    EXPECT_EQ(kind_of(symbol_of(kind)), kind);
    EXPECT_NE(name_of(kind), "unknown");
  }
  for (const char symbol : {'|', '/', 'm', '\0', '\xE9'}) {
    EXPECT_FALSE(kind_of(symbol).has_value());
  }
}

TEST(Pattern, MapsLayersToPlacesWithinTheirKind) {
  const LayerMap map("M*-MM*");
  const std::vector<std::int64_t> expected = {0, 0, 0, 1, 2, 1};
  for (std::size_t layer = 0; layer < expected.size(); ++layer) {
    EXPECT_EQ(map.index_within_kind(static_cast<std::int64_t>(layer)), expected[layer]);
  }
  EXPECT_EQ(map.layers_of(LayerKind::kMamba), (std::vector<std::int64_t>{0, 3, 4}));
  EXPECT_EQ(map.layers_of(LayerKind::kAttention), (std::vector<std::int64_t>{1, 5}));
  EXPECT_TRUE(map.layers_of(LayerKind::kGatedDeltaNet).empty());
  expect_holds(error_of([&] { map.index_within_kind(6); }), "[0, 6): 6");
  expect_holds(error_of([&] { map.index_within_kind(-1); }), "-1");
  expect_holds(error_of([] { LayerMap("M|"); }), "'|' at position 2");
}

TEST(Pattern, SegmentsGoToRanksInTurn) {
  const PipelineSplit two_by_two{2, 2, {}, {}};
  EXPECT_EQ(stages_of("M|*-||MM", two_by_two), "0.0:M@0 1.0:*-@1 0.1:@3 1.1:MM@3");
  EXPECT_EQ(stages_of("||M*", {3, 1, {}, {}}), "0.0:@0 1.0:@0 2.0:M*@0");
  EXPECT_EQ(stages_of("M|-", {1, {}, {}, {}}), "0.0:M@0 0.1:-@1");
  EXPECT_EQ(stages_of("M|*|M|-", {2, {}, {}, {}}), stages_of("M|*|M|-", two_by_two));
}

TEST(Pattern, SegmentsMustFitTheStages) {
  expect_holds(
      split_error("M|M|M", {2, {}, {}, {}}), "3 segments (separated by |), which 2 pipeline");
  expect_holds(
      split_error("M|M", {2, 2, {}, {}}), "2 segments (separated by |), but 2 pipeline ranks x 2");
  expect_holds(split_error("M|M", {4, {}, {}, {}}), "2 segments");
  expect_holds(split_error("M|M", {2, {}, 1, {}}), "for patterns without |");
  expect_holds(split_error("M|M", {2, {}, {}, 1}), "for patterns without |");
}

TEST(Pattern, SplitsEvenlyWithoutPipes) {
  EXPECT_EQ(stages_of("M*M-EG", {3, {}, {}, {}}), "0.0:M*@0 1.0:M-@2 2.0:EG@4");
  EXPECT_EQ(stages_of("M*M-", {2, 2, {}, {}}), "0.0:M@0 1.0:*@1 0.1:M@2 1.1:-@3");
  EXPECT_EQ(stages_of("M*-", {}), "0.0:M*-@0");
  EXPECT_EQ(stages_of("", {2, {}, {}, {}}), "0.0:@0 1.0:@0");
  EXPECT_EQ(stages_of("M-/M/M", {2, {}, {}, {}}), "0.0:M@0 1.0:-@1");
  expect_holds(split_error("MMMMM", {2, {}, {}, {}}), "5 layers cannot be shared evenly by 2");
  expect_holds(split_error("MMMM", {2, 4, {}, {}}), "rank 0 has 2 layers, which 4 virtual stages");
}

TEST(Pattern, SplitsByFirstAndLastCounts) {
  EXPECT_EQ(stages_of("M*M-M", {3, {}, 1, {}}), "0.0:M@0 1.0:*M@1 2.0:-M@3");
  EXPECT_EQ(stages_of("M*M-M", {3, {}, {}, 3}), "0.0:M@0 1.0:*@1 2.0:M-M@2");
  EXPECT_EQ(stages_of("M*M-MM", {4, {}, 1, 1}), "0.0:M@0 1.0:*M@1 2.0:-M@3 3.0:M@5");
  EXPECT_EQ(stages_of("M*M", {2, {}, 1, 2}), "0.0:M@0 1.0:*M@1");
  EXPECT_EQ(stages_of("M*", {2, {}, 0, {}}), "0.0:@0 1.0:M*@0");
  EXPECT_EQ(stages_of("M*M-MM", {2, 2, 4, {}}), "0.0:M*@0 1.0:M@2 0.1:-M@3 1.1:M@5");
}

TEST(Pattern, FirstAndLastCountsMustFit) {
  expect_holds(split_error("MMM", {1, {}, 3, {}}), "at least 2 pipeline ranks: 1");
  expect_holds(split_error("MMM", {2, {}, 1, 1}), "1 layers cannot be shared evenly by 0");
  expect_holds(split_error("MMMM", {3, {}, 1, {}}), "3 layers cannot be shared evenly by 2");
  expect_holds(split_error("MMM", {2, {}, 4, {}}), "at most the pattern's 3: 4 and 0");
  expect_holds(split_error("MMM", {2, {}, 2, 2}), "2 and 2");
  expect_holds(split_error("MMM", {2, {}, -1, {}}), "-1 and 0");
  expect_holds(split_error("MMM", {2, {}, INT64_MAX, INT64_MAX}), "at most");
  expect_holds(split_error("MMMM", {2, 2, 1, {}}), "rank 0 has 1 layers");
}

TEST(Pattern, RanksAndVirtualStagesAreLimited) {
  expect_holds(split_error("M", {0, {}, {}, {}}), "between 1 and 65536: 0");
  expect_holds(split_error("", {INT64_MAX, {}, {}, {}}), "between 1");
  expect_holds(split_error("M", {1, 0, {}, {}}), "at least 1");
  expect_holds(split_error("", {65536, 65536, {}, {}}), "at most 65536 stages");
}

TEST(Pattern, StagesOfRandomPatternsJoinToTheLayers) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 500; ++trial) {
    const std::int64_t ranks = 1 + random() % 4;
    const std::int64_t stages = 1 + random() % 3;
    std::string text;
    for (std::int64_t segment = 0; segment < ranks * stages; ++segment) {
      text += segment == 0 ? "" : "|";
      for (std::uint32_t left = random() % 4; left > 0; --left) {
        text += "M*-EG"[random() % 5];
      }
    }
    const LayerPattern pattern = parse_pattern(text);
    std::string joined;
    for (const PipelineStage& stage : split_pipeline(pattern, {ranks, stages, {}, {}})) {
      EXPECT_EQ(stage.offset, static_cast<std::int64_t>(joined.size()));
      EXPECT_EQ(stage.layers, pattern.segments[stage.virtual_stage * ranks + stage.rank]);
      joined += stage.layers;
    }
    EXPECT_EQ(joined, pattern.layers);
  }
}

TEST(Pattern, RatiosGiveTheKnownPatterns) {
  EXPECT_EQ(pattern_from_ratios({10, .3, .3}), "M-*MM*-*M-");
  EXPECT_EQ(pattern_from_ratios({8, .5, 0}), "M*M**M*M");
  EXPECT_EQ(pattern_from_ratios({24, .1, .4}), "M-M-MM-*M-M-M-M-*MM-M-M-");
  EXPECT_EQ(pattern_from_ratios({12, .25, .25}), "MM*-MM*-M*M-");
  EXPECT_EQ(pattern_from_ratios({3, .5, 0}), "*M*");
  EXPECT_EQ(pattern_from_ratios({5, .5, .5}), "M*-*-");
  EXPECT_EQ(pattern_from_ratios({48, .08, .5}), "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-");
  EXPECT_EQ(
      pattern_from_ratios({56, 4.0 / 56, .5}),
      "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-");
}

TEST(Pattern, RatiosAtTheirEnds) {
  EXPECT_EQ(pattern_from_ratios({4, 0, 0}), "MMMM");
  EXPECT_EQ(pattern_from_ratios({4, 1, 0}), "****");
  EXPECT_EQ(pattern_from_ratios({4, 0, 1}), "----");
  EXPECT_EQ(pattern_from_ratios({1, .5, .5}), "M") << "halves round to the even count, 0";
  EXPECT_EQ(pattern_from_ratios({10, .7, .3}).find('M'), std::string::npos);
}

// Counts are as asked for, and the Mamba runs that attention leaves differ by one at most.
TEST(Pattern, RatiosSpreadEvenly) {
  for (std::int64_t layers = 1; layers <= 40; ++layers) {
    for (std::int64_t attention = 0; attention <= layers; ++attention) {
      const double ratio = static_cast<double>(attention) / static_cast<double>(layers);
      const std::string pattern = pattern_from_ratios({layers, ratio, 0});
      EXPECT_EQ(std::count(pattern.begin(), pattern.end(), '*'), attention);
      std::size_t shortest = layers;
      std::size_t longest = 0;
      for (std::size_t begin = 0; begin <= pattern.size();) {
        const std::size_t end = std::min(pattern.find('*', begin), pattern.size());
        shortest = std::min(shortest, end - begin);
        longest = std::max(longest, end - begin);
        begin = end + 1;
      }
      EXPECT_LE(longest - shortest, 1U) << pattern;
      for (std::int64_t mlp = 0; mlp <= layers - attention; mlp += 3) {
        const std::string both = pattern_from_ratios(
            {layers, ratio, static_cast<double>(mlp) / static_cast<double>(layers)});
        EXPECT_EQ(std::count(both.begin(), both.end(), '-'), mlp) << both;
        EXPECT_EQ(std::count(both.begin(), both.end(), '*'), attention) << both;
      }
    }
  }
}

TEST(Pattern, RatiosAreChecked) {
  const auto ratio_error = [](const PatternRatios& ratios) {
    return error_of([&] { pattern_from_ratios(ratios); });
  };
  expect_holds(ratio_error({0, .1, .1}), "between 1 and 65536: 0");
  expect_holds(ratio_error({INT64_MAX, .1, .1}), "between 1");
  expect_holds(ratio_error({8, -.1, 0}), "ratio of attention layers must be in [0, 1]");
  expect_holds(ratio_error({8, 0, 1.5}), "ratio of MLP layers must be in [0, 1]");
  expect_holds(ratio_error({8, 0.0 / 0.0, 0}), "must be in [0, 1]");
  expect_holds(ratio_error({8, .6, .5}), "must add to at most 1");
  expect_holds(ratio_error({3, .5, .5}), "3 layers cannot hold 2 attention and 2 MLP layers");
}

} // namespace
} // namespace baton::model
