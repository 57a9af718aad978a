// SPDX-License-Identifier: Apache-2.0
#include "baton/model/pattern.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "baton/base/error.h"

namespace baton::model {
namespace {

constexpr char kPipe = '|';
constexpr char kPredictionPart = '/';

std::size_t row_of(LayerKind kind) {
  return std::find(kLayerKinds.begin(), kLayerKinds.end(), kind) - kLayerKinds.begin();
}

std::string number(std::int64_t value) {
  return std::to_string(value);
}

// The character at `position`, quoted: all bytes of a UTF-8 character, unprintable bytes as
// numbers.
std::string quoted_symbol(std::string_view text, std::size_t position) {
  const auto lead = static_cast<unsigned char>(text[position]);
  if (lead >= 0x20 && lead < 0x7F) {
    return std::string("'") + text[position] + "'";
  }
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
  const std::string_view symbol = text.substr(position, length);
  const bool whole = length > 1 && symbol.size() == length &&
                     std::all_of(symbol.begin() + 1, symbol.end(), [](char byte) {
                       return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
                     });
  if (whole) {
    return "'" + std::string(symbol) + "'";
  }
  char bytes[8];
  std::snprintf(bytes, sizeof(bytes), "'\\x%02X'", lead);
  return bytes;
}

std::string at_position(std::string_view text, std::size_t position) {
  return quoted_symbol(text, position) + " at position " + std::to_string(position + 1);
}

std::string allowed_symbols(bool in_prediction_part) {
  std::string list;
  for (const LayerKind kind : kLayerKinds) {
    list += list.empty() ? "" : ", ";
    list += symbol_of(kind);
    list += " (" + std::string(name_of(kind)) + ")";
  }
  return list + (in_prediction_part ? " and / (next prediction part)"
                                    : ", | (end of a pipeline segment) and / (prediction part)");
}

// Every message begins with the pattern, and positions count from its first character.
[[noreturn]] void refuse(std::string_view text, const std::string& what) {
  // Only the place matters of a pattern that fills a screen, or that is not text.
  const bool short_text = text.size() <= 120 && std::all_of(text.begin(), text.end(), [](char c) {
                            return static_cast<unsigned char>(c) >= 0x20;
                          });
  throw Error(
      "pattern" + (short_text ? " '" + std::string(text) + "'" : std::string()) + ": " + what);
}

void check_symbols(std::string_view text) {
  bool in_prediction_part = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char symbol = text[i];
    if (symbol == kPredictionPart) {
      in_prediction_part = true;
    } else if (symbol == kPipe && in_prediction_part) {
      refuse(
          text,
          "symbol " + at_position(text, i) +
              " (counted from 1) stands in a prediction part, which no pipeline segment may end; "
              "allowed there: " +
              allowed_symbols(true));
    } else if (symbol != kPipe && !kind_of(symbol)) {
      refuse(
          text,
          "symbol " + at_position(text, i) +
              " (counted from 1) is no layer; allowed: " + allowed_symbols(in_prediction_part));
    }
  }
}

// Latent and sparse attention bring their own rotary embedding, plain attention uses the model's.
void check_attention_kinds(std::string_view text) {
  const std::size_t plain = text.find(symbol_of(LayerKind::kAttention));
  const std::size_t other = text.find_first_of("+D");
  if (plain != std::string_view::npos && other != std::string_view::npos) {
    refuse(
        text,
        "symbol " + at_position(text, std::max(plain, other)) +
            " (counted from 1) does not go with " + at_position(text, std::min(plain, other)) +
            ": one model has either * (attention) or + (latent attention) and D (sparse "
            "attention)");
  }
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end = text.find(separator); end != std::string_view::npos;
       end = text.find(separator, begin)) {
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

// Finds where prediction part `part` (counted from 1) stops being like the first, and says so.
[[noreturn]] void
refuse_part(std::string_view text, const std::vector<std::string>& parts, std::size_t part) {
  const std::string& first = parts[1];
  const std::string& found = parts[part];
  std::size_t begin = 0;
  for (std::size_t i = 0; i < part; ++i) {
    begin += parts[i].size() + 1;
  }
  std::size_t same = 0;
  while (same < std::min(first.size(), found.size()) && first[same] == found[same]) {
    ++same;
  }
  const std::string place = same < found.size()
                                ? "symbol " + at_position(text, begin + same)
                                : "its end after position " + std::to_string(begin + same);
  refuse(
      text,
      "prediction part " + std::to_string(part) + " is '" + found +
          "', but all must equal the first, '" + first + "'; they part at " + place +
          " (counted from 1)");
}

std::int64_t checked_virtual_stages(const LayerPattern& pattern, const PipelineSplit& split) {
  if (split.ranks < 1 || split.ranks > kMaxPatternLayers) {
    throw Error(
        "pipeline ranks must be between 1 and " + number(kMaxPatternLayers) + ": " +
        number(split.ranks));
  }
  const auto segments = static_cast<std::int64_t>(pattern.segments.size());
  if (pattern.has_pipes() && !split.virtual_stages && segments % split.ranks != 0) {
    throw Error(
        "the pattern has " + number(segments) + " segments (separated by |), which " +
        number(split.ranks) + " pipeline ranks cannot share evenly");
  }
  const std::int64_t stages =
      split.virtual_stages.value_or(pattern.has_pipes() ? segments / split.ranks : 1);
  if (stages < 1 || stages > kMaxPatternLayers / split.ranks) {
    throw Error(
        "virtual stages must be at least 1, and with the " + number(split.ranks) +
        " pipeline ranks make at most " + number(kMaxPatternLayers) + " stages: " + number(stages));
  }
  if (pattern.has_pipes() && segments != split.ranks * stages) {
    throw Error(
        "the pattern has " + number(segments) + " segments (separated by |), but " +
        number(split.ranks) + " pipeline ranks x " + number(stages) + " virtual stages need " +
        number(split.ranks * stages));
  }
  return stages;
}

void check_stage_counts(const LayerPattern& pattern, const PipelineSplit& split) {
  if (pattern.has_pipes()) {
    throw Error(
        "counts of layers for the first or last stage are for patterns without |; this one says "
        "itself where its " +
        std::to_string(pattern.segments.size()) + " segments end");
  }
  if (split.ranks < 2) {
    throw Error(
        "counts of layers for the first or last stage need at least 2 pipeline ranks: " +
        number(split.ranks));
  }
  const std::int64_t total = pattern.num_layers();
  const std::int64_t first = split.first_stage_layers.value_or(0);
  const std::int64_t last = split.last_stage_layers.value_or(0);
  if (first < 0 || last < 0 || first > total || last > total - first) {
    throw Error(
        "the first and last stage's layers must be at least 0 and together at most the pattern's " +
        number(total) + ": " + number(first) + " and " + number(last));
  }
}

// Layers of every rank for a pattern without pipes.
std::vector<std::int64_t> layers_by_rank(const LayerPattern& pattern, const PipelineSplit& split) {
  if (split.first_stage_layers || split.last_stage_layers) {
    check_stage_counts(pattern, split);
  }
  const std::int64_t rest = pattern.num_layers() - split.first_stage_layers.value_or(0) -
                            split.last_stage_layers.value_or(0);
  const std::int64_t sharing =
      split.ranks - (split.first_stage_layers ? 1 : 0) - (split.last_stage_layers ? 1 : 0);
  if (sharing == 0 ? rest != 0 : rest % sharing != 0) {
    throw Error(
        number(rest) + " layers cannot be shared evenly by " + number(sharing) +
        " pipeline ranks; end segments by | or give the first or last stage a count that leaves a "
        "multiple");
  }
  std::vector<std::int64_t> counts(split.ranks, sharing == 0 ? 0 : rest / sharing);
  if (split.first_stage_layers) {
    counts.front() = *split.first_stage_layers;
  }
  if (split.last_stage_layers) {
    counts.back() = *split.last_stage_layers;
  }
  return counts;
}

std::vector<std::string>
segments_of(const LayerPattern& pattern, const PipelineSplit& split, std::int64_t virtual_stages) {
  const std::vector<std::int64_t> counts = layers_by_rank(pattern, split);
  for (std::size_t rank = 0; rank < counts.size(); ++rank) {
    if (counts[rank] % virtual_stages != 0) {
      throw Error(
          "pipeline rank " + std::to_string(rank) + " has " + number(counts[rank]) +
          " layers, which " + number(virtual_stages) +
          " virtual stages cannot share evenly; end segments by |");
    }
  }
  std::vector<std::string> segments;
  std::size_t offset = 0;
  for (std::int64_t stage = 0; stage < virtual_stages; ++stage) {
    for (const std::int64_t count : counts) {
      segments.push_back(pattern.layers.substr(offset, count / virtual_stages));
      offset += segments.back().size();
    }
  }
  return segments;
}

// Changes one layer of kind M into `kind` after every `run` others, on average: the remainder of
// the run is carried along, and a place is taken when less than half a layer of it is left. It is
// carried in fp64 on purpose, one layer at a time: where two places are equally good its rounding
// decides, and models exist whose recipes are these ratios.
void spread(std::string& layers, LayerKind kind, double run) {
  double left = run;
  for (char& symbol : layers) {
    if (symbol != symbol_of(LayerKind::kMamba)) {
      continue;
    }
    if (left < 0.5) {
      symbol = symbol_of(kind);
      left += run;
    } else {
      left -= 1;
    }
  }
}

} // namespace

std::string_view name_of(LayerKind kind) {
  switch (kind) {
    case LayerKind::kMamba:
      return "Mamba-2";
    case LayerKind::kAttention:
      return "attention";
    case LayerKind::kMlp:
      return "MLP";
    case LayerKind::kMixtureOfExperts:
      return "mixture of experts";
    case LayerKind::kGatedDeltaNet:
      return "gated delta net";
    case LayerKind::kLatentAttention:
      return "latent attention";
    case LayerKind::kSparseAttention:
      return "sparse attention";
  }
  return "unknown";
}

std::optional<LayerKind> kind_of(char symbol) {
  const auto kind = static_cast<LayerKind>(symbol);
  if (row_of(kind) == kLayerKinds.size()) {
    return std::nullopt;
  }
  return kind;
}

std::string LayerPattern::text() const {
  std::string text;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    text += (i == 0 ? "" : "|") + segments[i];
  }
  for (std::int64_t part = 0; part < mtp_depth; ++part) {
    text += kPredictionPart + mtp;
  }
  return text;
}

LayerPattern parse_pattern(std::string_view text) {
  check_symbols(text);
  check_attention_kinds(text);
  if (text.size() > static_cast<std::size_t>(kMaxPatternLayers)) {
    throw Error(
        "a pattern has at most " + number(kMaxPatternLayers) +
        " symbols: " + std::to_string(text.size()));
  }
  const std::vector<std::string> parts = split(text, kPredictionPart);
  LayerPattern pattern;
  pattern.segments = split(parts[0], kPipe);
  for (const std::string& segment : pattern.segments) {
    pattern.layers += segment;
  }
  const bool only_empty = std::all_of(
      parts.begin() + 1, parts.end(), [](const std::string& part) { return part.empty(); });
  if (only_empty) {
    return pattern;
  }
  for (std::size_t part = 2; part < parts.size(); ++part) {
    if (parts[part] != parts[1]) {
      refuse_part(text, parts, part);
    }
  }
  pattern.mtp = parts[1];
  pattern.mtp_depth = static_cast<std::int64_t>(parts.size()) - 1;
  return pattern;
}

std::int64_t count_layers(const LayerPattern& pattern, LayerKind kind) {
  const auto count = [kind](const std::string& layers) {
    return static_cast<std::int64_t>(std::count(layers.begin(), layers.end(), symbol_of(kind)));
  };
  return count(pattern.layers) + pattern.mtp_depth * count(pattern.mtp);
}

LayerMap::LayerMap(std::string_view layers) {
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const std::optional<LayerKind> kind = kind_of(layers[layer]);
    if (!kind) {
      throw Error("a list of layers holds " + at_position(layers, layer) + " (counted from 1)");
    }
    std::vector<std::int64_t>& same_kind = layers_[row_of(*kind)];
    index_.push_back(static_cast<std::int64_t>(same_kind.size()));
    same_kind.push_back(static_cast<std::int64_t>(layer));
  }
}

std::int64_t LayerMap::index_within_kind(std::int64_t layer) const {
  if (layer < 0 || layer >= static_cast<std::int64_t>(index_.size())) {
    throw Error("layer must be in [0, " + std::to_string(index_.size()) + "): " + number(layer));
  }
  return index_[layer];
}

const std::vector<std::int64_t>& LayerMap::layers_of(LayerKind kind) const {
  return layers_.at(row_of(kind));
}

std::vector<PipelineStage> split_pipeline(const LayerPattern& pattern, const PipelineSplit& split) {
  const std::int64_t virtual_stages = checked_virtual_stages(pattern, split);
  if (pattern.has_pipes() && (split.first_stage_layers || split.last_stage_layers)) {
    check_stage_counts(pattern, split);
  }
  const std::vector<std::string> segments =
      pattern.has_pipes() ? pattern.segments : segments_of(pattern, split, virtual_stages);
  std::vector<PipelineStage> stages;
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    stages.push_back({index % split.ranks, index / split.ranks, segments[i], offset});
    offset += static_cast<std::int64_t>(segments[i].size());
  }
  return stages;
}

std::string pattern_from_ratios(const PatternRatios& ratios) {
  if (ratios.layers < 1 || ratios.layers > kMaxPatternLayers) {
    throw Error(
        "layers must be between 1 and " + number(kMaxPatternLayers) + ": " + number(ratios.layers));
  }
  const auto share = [&](const char* name, double ratio) {
    if (!(ratio >= 0 && ratio <= 1)) {
      throw Error(std::string(name) + " must be in [0, 1]: " + std::to_string(ratio));
    }
    // The default rounding mode takes halves to the even neighbour.
    return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(ratios.layers) * ratio));
  };
  const std::int64_t attention = share("the ratio of attention layers", ratios.attention);
  const std::int64_t mlp = share("the ratio of MLP layers", ratios.mlp);
  // Decimal shares that make up 1 may add to one rounding error more.
  if (ratios.attention + ratios.mlp > 1 + 1e-9) {
    throw Error(
        "the ratios of attention and MLP layers must add to at most 1: " +
        std::to_string(ratios.attention) + " + " + std::to_string(ratios.mlp));
  }
  const std::int64_t not_attention = ratios.layers - attention;
  if (mlp > not_attention) {
    throw Error(
        number(ratios.layers) + " layers cannot hold " + number(attention) + " attention and " +
        number(mlp) + " MLP layers (ratios " + std::to_string(ratios.attention) + " and " +
        std::to_string(ratios.mlp) + ", rounded half to even)");
  }
  std::string layers(ratios.layers, symbol_of(LayerKind::kMamba));
  spread(
      layers,
      LayerKind::kAttention,
      static_cast<double>(not_attention) / static_cast<double>(attention + 1));
  if (mlp > 0) {
    spread(
        layers,
        LayerKind::kMlp,
        static_cast<double>(not_attention - mlp) / static_cast<double>(mlp));
  }
  return layers;
}

} // namespace baton::model
