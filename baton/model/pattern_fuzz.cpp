// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any text is a pattern that survives printing and splitting, or a clean error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "baton/base/error.h"
#include "baton/model/pattern.h"

namespace {

using namespace baton::model;

void check(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

void split(const LayerPattern& pattern, const PipelineSplit& numbers) {
  try {
    std::int64_t layers = 0;
    for (const PipelineStage& stage : split_pipeline(pattern, numbers)) {
      check(stage.offset == layers);
      layers += static_cast<std::int64_t>(stage.layers.size());
    }
    check(layers == pattern.num_layers());
  } catch (const baton::Error&) {
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) {
    return 0;
  }
  const auto number = [&](int i) { return static_cast<std::int64_t>(data[i]) - 2; };
  const std::string_view text(reinterpret_cast<const char*>(data) + 4, size - 4);
  try {
    const LayerPattern pattern = parse_pattern(text);
    check(parse_pattern(pattern.text()).text() == pattern.text());
    const LayerMap map(pattern.layers);
    for (std::int64_t layer = 0; layer < pattern.num_layers(); ++layer) {
      check(map.index_within_kind(layer) <= layer);
    }
    split(pattern, {.ranks = number(0)});
    split(pattern, {.ranks = number(0), .virtual_stages = number(1)});
    split(
        pattern,
        {.ranks = number(0), .virtual_stages = number(1), .first_stage_layers = number(2)});
    split(
        pattern,
        {.ranks = number(0), .first_stage_layers = number(2), .last_stage_layers = number(3)});
  } catch (const baton::Error&) {
  }
  try {
    const std::string pattern = pattern_from_ratios(
        {.layers = 8 * number(0),
         .attention = static_cast<double>(number(1)) / 200.0,
         .mlp = static_cast<double>(number(2)) / 200.0});
    check(static_cast<std::int64_t>(pattern.size()) == 8 * number(0));
  } catch (const baton::Error&) {
  }
  return 0;
}
