// SPDX-License-Identifier: Apache-2.0
// A config.json as Hugging Face writes them: typed access with one-line errors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "baton/base/config.h"

namespace baton::checkpoint::hf {

/// Parses the text of a config.json. Numbers that JSON lacks are understood both ways: bare, as
/// Python writes them (`Infinity`, `-Infinity`, `NaN`), and wrapped (`{"__float__": "Infinity"}`);
/// the result holds the wrapped form. Throws `Error` where it is no JSON object.
nlohmann::json parse_config_json(std::string_view text);

/// A number in the form that transformers writes: infinities are wrapped.
nlohmann::json config_number(double value);

/// Reads the keys of an object. A key that is absent or null takes its fallback; without one it is
/// an error. Errors name the file, the key and what it must be.
class ConfigReader {
 public:
  /// `object` must outlive the reader; `where` is the file's name.
  ConfigReader(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  /// A reader that finds `key` under another name, which messages then have too.
  ConfigReader with_alias(std::string key, std::string name) const;

  /// The value of a key, or null when it is absent or null.
  const nlohmann::json* find(const std::string& key) const;
  bool has(const std::string& key) const { return find(key) != nullptr; }

  std::int64_t
  integer(const std::string& key, Range range, std::optional<std::int64_t> fallback = {}) const;
  double real(const std::string& key, Range range, std::optional<double> fallback = {}) const;
  bool flag(const std::string& key, std::optional<bool> fallback = {}) const;
  std::string word(const std::string& key, std::optional<std::string> fallback = {}) const;
  std::vector<std::string> words(const std::string& key) const;
  std::vector<std::int64_t> integers(const std::string& key, Range range) const;
  /// A pair of numbers from 0 up, [low, high]; high may be infinite.
  std::pair<double, double> limits(const std::string& key, std::pair<double, double> fallback)
      const;
  /// A reader of the object under `key`; an empty one when it is absent.
  ConfigReader object(const std::string& key) const;

  /// Throws `Error`: "FILE: KEY RULE, got VALUE".
  [[noreturn]] void fail(const std::string& key, const std::string& rule) const;

  const std::string& where() const { return where_; }
  const nlohmann::json& json() const { return object_; }

 private:
  double number(const nlohmann::json& value, const std::string& key) const;
  void require(bool fallback, const std::string& key) const;
  const std::string& name_of(const std::string& key) const {
    return key == alias_key_ ? alias_name_ : key;
  }

  const nlohmann::json& object_;
  std::string where_;
  std::string prefix_; // of keys in messages
  std::string alias_key_;
  std::string alias_name_;
};

} // namespace baton::checkpoint::hf
