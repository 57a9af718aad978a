// SPDX-License-Identifier: Apache-2.0
// The pattern language: which layer stands where in a hybrid stack, and how pipelines divide it.
//
// One symbol is one layer with its own norm and residual. `|` ends a pipeline segment; `/` starts a
// multi-token-prediction part: "M*M-|M*M-/M*/M*" has eight layers in two segments and predicts two
// further tokens by a part of two layers each. The language is Megatron-LM's (its hybrid layer
// patterns). This file does without libtorch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::model {

/// Kinds of layers; the value is the symbol.
enum class LayerKind : char {
  kMamba = 'M',
  kAttention = '*',
  kMlp = '-',
  kMixtureOfExperts = 'E',
  kGatedDeltaNet = 'G',
  kLatentAttention = '+',
  kSparseAttention = 'D',
};

/// All kinds, in the order in which they are listed to people.
inline constexpr std::array<LayerKind, 7> kLayerKinds = {
    LayerKind::kMamba,
    LayerKind::kAttention,
    LayerKind::kMlp,
    LayerKind::kMixtureOfExperts,
    LayerKind::kGatedDeltaNet,
    LayerKind::kLatentAttention,
    LayerKind::kSparseAttention};

/// Layers (or pipeline stages) that a pattern may have.
inline constexpr std::int64_t kMaxPatternLayers = 65536;

inline char symbol_of(LayerKind kind) {
  return static_cast<char>(kind);
}

/// "Mamba-2", "attention", "MLP", ...
std::string_view name_of(LayerKind kind);

/// The kind of a symbol, nothing when it is no layer's.
std::optional<LayerKind> kind_of(char symbol);

/// A parsed pattern. Strings hold layer symbols only.
struct LayerPattern {
  std::string layers; ///< the main pattern without pipes
  std::vector<std::string>
      segments;               ///< the main pattern between its pipes: at least one, may be empty
  std::string mtp;            ///< layers of one multi-token-prediction part
  std::int64_t mtp_depth = 0; ///< number of such parts

  std::int64_t num_layers() const { return static_cast<std::int64_t>(layers.size()); }
  bool has_pipes() const { return segments.size() > 1; }

  /// The text that parses to this pattern.
  std::string text() const;
};

/// Reads and checks a pattern. An empty pattern has no layers; empty parts after the last `/` mean
/// no prediction part ("M*/" is "M*"). Throws `baton::Error` that names the symbol and its position
/// (the first character has position 1): unknown symbols, `|` in a prediction part, prediction
/// parts that differ, attention together with latent or sparse attention.
LayerPattern parse_pattern(std::string_view text);

/// Layers of a kind in the whole model: the main pattern, and every prediction part.
std::int64_t count_layers(const LayerPattern& pattern, LayerKind kind);

/// Layers of a list, by kind.
class LayerMap {
 public:
  explicit LayerMap(std::string_view layers);

  /// Place of layer `layer` among the layers of its own kind. Throws `baton::Error` out of range.
  std::int64_t index_within_kind(std::int64_t layer) const;

  /// The layers of a kind, rising: its inverse.
  const std::vector<std::int64_t>& layers_of(LayerKind kind) const;

 private:
  std::vector<std::int64_t> index_;
  std::array<std::vector<std::int64_t>, kLayerKinds.size()> layers_;
};

/// How a pipeline divides the main pattern.
struct PipelineSplit {
  std::int64_t ranks = 1;
  /// Stages a rank. By default what the pipes give (segments / ranks), 1 without pipes.
  std::optional<std::int64_t> virtual_stages;
  /// Layers of the first and of the last rank, only for patterns without pipes; the ranks between
  /// (and those that have no count of their own) divide the others evenly.
  std::optional<std::int64_t> first_stage_layers;
  std::optional<std::int64_t> last_stage_layers;
};

/// What one rank runs at one of its virtual stages.
struct PipelineStage {
  std::int64_t rank = 0;
  std::int64_t virtual_stage = 0;
  std::string layers;      ///< may be empty
  std::int64_t offset = 0; ///< number of layers before it in the main pattern
};

/// The stages in the order of the layers: stage v * ranks + r is virtual stage v of rank r. With
/// pipes they are the segments. Without, each rank's layers (an even share, or the counts asked
/// for) are divided evenly over its virtual stages. Throws `baton::Error` when numbers do not fit.
std::vector<PipelineStage> split_pipeline(const LayerPattern& pattern, const PipelineSplit& split);

/// A pattern described by shares of its layers.
struct PatternRatios {
  std::int64_t layers = 0;
  double attention = 0;
  double mlp = 0;
};

/// The pattern with round(layers * attention) attention layers (half to even), so placed that the
/// Mamba runs before, between and after them are as even as they can be, and then
/// round(layers * mlp) of the Mamba layers, evenly spread, made MLP. Throws `baton::Error` for
/// shares outside [0, 1] or counts that do not fit.
std::string pattern_from_ratios(const PatternRatios& ratios);

} // namespace baton::model
