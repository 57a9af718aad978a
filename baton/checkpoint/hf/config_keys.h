// SPDX-License-Identifier: Apache-2.0
// Kinds of config.json keys, for the families' tables.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "baton/checkpoint/hf/family.h"

namespace baton::checkpoint::hf {

using Config = model::ModelConfig;
using IntegerMember = std::int64_t& (*)(Config&);
using RealMember = double& (*)(Config&);
using FlagMember = bool& (*)(Config&);
using WordMember = std::string& (*)(Config&);

/// Sizes that a recipe may have too, and that cover every model; larger ones are damage.
inline constexpr Range kSize{1, 1 << 20};
inline constexpr std::int64_t kMostHeadChannels = 1024;
inline constexpr Range kHeadChannels{1, double{kMostHeadChannels}};

ConfigKey integer_key(
    const std::string& name,
    IntegerMember member,
    std::optional<std::int64_t> fallback,
    Range range = kSize);
ConfigKey real_key(const std::string& name, RealMember member, double fallback, Range range);
ConfigKey flag_key(const std::string& name, FlagMember member, bool fallback);

/// A word of theirs for each of ours.
ConfigKey word_key(
    const std::string& name,
    WordMember member,
    const std::vector<std::pair<std::string, std::string>>& theirs_and_ours,
    const std::string& fallback);

/// A key of which only one value can be had here. Absent and null mean it too.
ConfigKey fixed_key(const std::string& name, const nlohmann::json& value);

/// A key that changes nothing about the model; a new config.json gets `value`.
ConfigKey free_key(std::string name, const nlohmann::json& value);

/// A key that others give already: it is known and, where `value` is not null, written.
ConfigKey derived_key(std::string name, std::function<nlohmann::json(Config)> write);

/// What a family calls a mixer's sizes and biases, and what absent sizes mean.
struct MixerNames {
  std::string heads;
  std::string groups;
  std::int64_t groups_fallback = 1;
  std::string state;
  std::int64_t state_fallback = 128;
  std::string taps;
  std::string conv_bias;
  std::string bias;
};

/// The keys that every mixer has; 128 heads where the key is absent.
std::vector<ConfigKey> mixer_keys(const MixerNames& names);

/// "time_step_limit": limits of dt.
ConfigKey time_step_limit_key();

/// Embedding, head and vocabulary, number type, start values: alike in all families.
std::vector<ConfigKey> common_keys();

/// Parts of tables, one behind the other.
std::vector<ConfigKey> join(std::vector<std::vector<ConfigKey>> parts);

/// The longest pattern that is read from a config.
inline constexpr std::int64_t kMostLayers = 10000;

/// The first layer of each block of a pattern: "M*" of "M-*-" with `rest` "-". Throws `Error` where
/// a block is not one of the symbols `first` and then `rest`.
std::string
block_symbols(const std::string& pattern, const std::string& first, const std::string& rest);

} // namespace baton::checkpoint::hf
