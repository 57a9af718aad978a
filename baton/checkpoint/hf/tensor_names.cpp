// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/tensor_names.h"

#include <charconv>

#include <ATen/ATen.h>

#include "baton/base/error.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint::hf {
namespace {

constexpr std::string_view kLayers = "layers.";

/// The rule whose name `name` begins with; null for none.
const NameRule* find_rule(const Family& family, char symbol, std::string_view name) {
  for (const NameRule& rule : family.names) {
    const bool begins = name.substr(0, rule.ours.size()) == rule.ours &&
                        (name.size() == rule.ours.size() || name[rule.ours.size()] == '.');
    if (rule.symbol == symbol && begins) {
      return &rule;
    }
  }
  return nullptr;
}

} // namespace

TensorPlace place_of(
    const Family& family,
    const std::string& layers,
    const std::string& root,
    std::string_view parameter) {
  std::string_view name = parameter;
  std::string prefix = root + ".";
  char symbol = 0;
  if (name.substr(0, kLayers.size()) == kLayers) {
    std::size_t layer = 0;
    const char* end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + kLayers.size(), end, layer);
    if (error != std::errc() || rest == end || *rest != '.' || layer >= layers.size()) {
      throw Error("no layer has the parameter " + in_quotes(parameter));
    }
    name = {rest + 1, static_cast<std::size_t>(end - rest - 1)};
    symbol = layers[layer];
    prefix += "layers." + std::to_string(layer / (1 + family.block_rest.size())) + ".";
  }
  const NameRule* rule = find_rule(family, symbol, name);
  if (rule == nullptr) {
    throw Error("family " + family.name + " has no place for " + in_quotes(parameter));
  }
  TensorPlace place{.ours = std::string(parameter)};
  for (const std::string& theirs : rule->theirs) {
    const std::string rest(name.substr(rule->ours.size()));
    // A leading slash stands for a name outside of the root.
    place.theirs.push_back(theirs[0] == '/' ? theirs.substr(1) + rest : prefix + theirs + rest);
  }
  constexpr std::string_view kTaps = "conv1d.weight";
  place.depthwise = name.size() > kTaps.size() && name.substr(name.size() - kTaps.size()) == kTaps;
  return place;
}

std::vector<at::Tensor> parts_of(const at::Tensor& value, const TensorPlace& place) {
  std::vector<at::Tensor> parts{value};
  if (place.theirs.size() > 1) {
    const auto count = static_cast<std::int64_t>(place.theirs.size());
    parts = value.split(value.size(0) / count, 0);
  }
  if (place.depthwise) {
    for (at::Tensor& part : parts) {
      part = part.unsqueeze(1);
    }
  }
  return parts;
}

} // namespace baton::checkpoint::hf
