// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/hf/config_reader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "baton/base/error.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint::hf {
namespace {

using Json = nlohmann::json;

constexpr const char* kWrapper = "__float__";
constexpr std::array<std::string_view, 3> kBareNumbers{"-Infinity", "Infinity", "NaN"};
constexpr std::size_t kShownCharacters = 60;
constexpr Range kLowLimit{0.0, 1e9}; // as model.mamba.dt_min

/// The text with bare numbers wrapped; strings stay as they are.
std::string with_wrapped_numbers(std::string_view text) {
  std::string wrapped;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\' && i + 1 < text.size()) {
      wrapped += c;
      wrapped += text[++i];
      continue;
    }
    in_string = in_string != (c == '"');
    const auto bare = [&](std::string_view number) {
      return !in_string && text.substr(i, number.size()) == number;
    };
    bool found = false;
    for (const std::string_view number : kBareNumbers) {
      if (bare(number)) {
        wrapped += std::string("{\"") + kWrapper + "\": \"" + std::string(number) + "\"}";
        i += number.size() - 1;
        found = true;
        break;
      }
    }
    if (!found) {
      wrapped += c;
    }
  }
  return wrapped;
}

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > kShownCharacters ? text.substr(0, kShownCharacters) + "..." : text;
}

std::string range_text(Range range) {
  const auto text = [](double value) {
    std::string number = std::to_string(value);
    number.erase(number.find_last_not_of('0') + 1);
    return number.back() == '.' ? number.substr(0, number.size() - 1) : number;
  };
  return std::string(range.open_low ? "(" : "[") + text(range.low) + ", " + text(range.high) + "]";
}

} // namespace

Json parse_config_json(std::string_view text) {
  Json json = parse_strict_json(with_wrapped_numbers(text));
  if (!json.is_object() || json.contains(kWrapper)) { // a number alone is no config
    throw Error("must be a JSON object");
  }
  return json;
}

Json config_number(double value) {
  if (std::isinf(value)) {
    return {{kWrapper, value > 0 ? "Infinity" : "-Infinity"}};
  }
  return value;
}

ConfigReader ConfigReader::with_alias(std::string key, std::string name) const {
  ConfigReader renamed = *this;
  renamed.alias_key_ = std::move(key);
  renamed.alias_name_ = std::move(name);
  return renamed;
}

const Json* ConfigReader::find(const std::string& key) const {
  const auto found = object_.find(name_of(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void ConfigReader::fail(const std::string& key, const std::string& rule) const {
  const Json* value = find(key);
  throw Error(
      where_ + ": " + prefix_ + name_of(key) + " " + rule + ", got " +
      (value == nullptr ? "nothing" : shown(*value)));
}

void ConfigReader::require(bool fallback, const std::string& key) const {
  if (!fallback) {
    fail(key, "must be given");
  }
}

double ConfigReader::number(const Json& value, const std::string& key) const {
  if (value.is_number()) {
    return value.get<double>();
  }
  if (value.is_object() && value.size() == 1 && value.contains(kWrapper)) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (value[kWrapper] == "Infinity") {
      return kInfinity;
    }
    if (value[kWrapper] == "-Infinity") {
      return -kInfinity;
    }
  }
  fail(key, "must be a number");
}

std::int64_t ConfigReader::integer(
    const std::string& key,
    Range range,
    std::optional<std::int64_t> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    require(fallback.has_value(), key);
    return *fallback;
  }
  const bool whole = value->is_number_integer();
  if (!whole || !range.holds(value->get<double>())) {
    fail(key, "must be a whole number in " + range_text(range));
  }
  return value->get<std::int64_t>();
}

double ConfigReader::real(const std::string& key, Range range, std::optional<double> fallback)
    const {
  const Json* value = find(key);
  if (value == nullptr) {
    require(fallback.has_value(), key);
    return *fallback;
  }
  const double found = number(*value, key);
  if (!range.holds(found)) {
    fail(key, "must be in " + range_text(range));
  }
  return found;
}

bool ConfigReader::flag(const std::string& key, std::optional<bool> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    require(fallback.has_value(), key);
    return *fallback;
  }
  if (!value->is_boolean()) {
    fail(key, "must be true or false");
  }
  return value->get<bool>();
}

std::string ConfigReader::word(const std::string& key, std::optional<std::string> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    require(fallback.has_value(), key);
    return *fallback;
  }
  if (!value->is_string()) {
    fail(key, "must be a string");
  }
  return value->get<std::string>();
}

std::vector<std::string> ConfigReader::words(const std::string& key) const {
  const Json* value = find(key);
  const auto is_word = [](const Json& element) { return element.is_string(); };
  if (value == nullptr || !value->is_array() ||
      !std::all_of(value->begin(), value->end(), is_word)) {
    fail(key, "must be a list of strings");
  }
  return value->get<std::vector<std::string>>();
}

std::vector<std::int64_t> ConfigReader::integers(const std::string& key, Range range) const {
  std::vector<std::int64_t> numbers;
  const Json* value = find(key);
  if (value == nullptr) {
    return numbers;
  }
  const auto fits = [&](const Json& element) {
    return element.is_number_integer() && range.holds(element.get<double>());
  };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), fits)) {
    fail(key, "must be a list of whole numbers in " + range_text(range));
  }
  return value->get<std::vector<std::int64_t>>();
}

std::pair<double, double> ConfigReader::limits(
    const std::string& key,
    std::pair<double, double> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_array() || value->size() != 2) {
    fail(key, "must be a pair of numbers");
  }
  const std::pair<double, double> found{number((*value)[0], key), number((*value)[1], key)};
  if (!(kLowLimit.holds(found.first) && found.first <= found.second)) {
    fail(key, "must rise from a number in " + range_text(kLowLimit));
  }
  return found;
}

ConfigReader ConfigReader::object(const std::string& key) const {
  static const Json empty = Json::object();
  const Json* value = find(key);
  if (value != nullptr && !value->is_object()) {
    fail(key, "must be an object");
  }
  ConfigReader inner(value == nullptr ? empty : *value, where_);
  inner.prefix_ = prefix_ + key + ".";
  return inner;
}

} // namespace baton::checkpoint::hf
