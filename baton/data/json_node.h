// SPDX-License-Identifier: Apache-2.0
// A value of a JSON file that may be damaged, with its place for messages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace baton {

/// Parses a file's text. Throws Error with the place of a syntax error.
nlohmann::json parse_json(const std::string& text, const std::string& file);

/// A text in double quotes, escaped and cut so that it fits into a message of one line.
std::string in_quotes(std::string_view text);

/// Points into a parsed file. All readers throw Error "FILE: PLACE: rule" for a value of another
/// kind.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string file)
      : JsonNode(value, std::move(file), std::string()) {}

  /// The value of a key that must be there.
  JsonNode at(const std::string& key) const;
  /// The value of a key, unless it is missing or null.
  std::optional<JsonNode> find(const std::string& key) const;
  /// The entries of a list.
  std::vector<JsonNode> list() const;

  /// The object or list itself, to walk through many entries.
  const nlohmann::json& object() const;
  const nlohmann::json& array() const;

  const std::string& string() const;
  bool boolean() const;
  double number() const;
  /// An integer in [0, largest].
  std::int64_t integer(std::int64_t largest) const;

  bool boolean_or(const std::string& key, bool otherwise) const;

  const std::string& file() const { return file_; }
  [[noreturn]] void fail(const std::string& rule) const;

 private:
  JsonNode(const nlohmann::json& value, std::string file, std::string place)
      : value_(&value), file_(std::move(file)), place_(std::move(place)) {}

  const nlohmann::json* value_;
  std::string file_;
  std::string place_; // "pre_tokenizer.pretokenizers[1].pattern"; empty for the whole file
};

} // namespace baton
