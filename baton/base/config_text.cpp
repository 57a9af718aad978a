// SPDX-License-Identifier: Apache-2.0
#include "baton/base/config_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <type_traits>

#include <nlohmann/json.hpp>

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

std::string value_toml(bool value) {
  return value ? "true" : "false";
}
std::string value_toml(std::int64_t value) {
  return std::to_string(value);
}
std::string value_toml(double value) {
  return number_text(value);
}
std::string value_toml(const std::string& value) {
  return quoted(value);
}

template <class T>
std::string value_toml(const std::vector<T>& values) {
  std::string list;
  for (const T& value : values) {
    list += (list.empty() ? "" : ", ") + value_toml(value);
  }
  return "[" + list + "]";
}

std::string field_toml(const ConfigField& field) {
  return std::visit([](const auto* value) { return value_toml(*value); }, field.value);
}

Json value_json(double value) {
  return std::isfinite(value) ? Json(value) : Json(number_text(value));
}

template <class T>
Json value_json(const T& value) {
  return Json(value);
}

Json value_json(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) {
    list.push_back(value_json(value));
  }
  return list;
}

std::string group_of(const std::string& key) {
  const std::size_t dot = key.rfind('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

std::string last_part(const std::string& key) {
  const std::size_t dot = key.rfind('.');
  return dot == std::string::npos ? key : key.substr(dot + 1);
}

// TOML wants the keys of a table together, the ones outside any table first. `comment` gives the
// lines above a key.
template <class Comment>
std::string grouped_toml(const std::vector<ConfigField>& fields, const Comment& comment) {
  std::vector<std::string> groups = {""};
  for (const ConfigField& field : fields) {
    const std::string group = group_of(field.key);
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) {
      groups.push_back(group);
    }
  }
  std::string toml;
  for (const std::string& group : groups) {
    if (!group.empty()) {
      toml += (toml.empty() ? "[" : "\n[") + group + "]\n";
    }
    for (const ConfigField& field : fields) {
      if (group_of(field.key) == group) {
        toml += comment(field) + last_part(field.key) + " = " + field_toml(field) + "\n";
      }
    }
  }
  return toml;
}

// Numbers of a rule read as people write them: "1", not "1.0".
std::string plain_number(double value) {
  std::string text = number_text(value);
  const bool whole = text.size() > 2 && text.compare(text.size() - 2, 2, ".0") == 0;
  return whole ? text.substr(0, text.size() - 2) : text;
}

std::string range_text(const Range& range) {
  if (std::isinf(range.high)) {
    return (range.open_low ? "above " : "at least ") + plain_number(range.low);
  }
  if (std::isinf(range.low)) {
    return "at most " + plain_number(range.high);
  }
  return "in " + std::string(range.open_low ? "(" : "[") + plain_number(range.low) + ", " +
         plain_number(range.high) + "]";
}

} // namespace

std::string markdown_cell(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    escaped += c == '|' ? "\\|" : std::string(1, c);
  }
  return escaped;
}

std::string quoted(const std::string& text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      result += "\\u00";
      result += kDigits[byte >> 4];
      result += kDigits[byte & 15];
    } else {
      result += c;
    }
  }
  return result + "\"";
}

std::string number_text(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value > 0 ? "inf" : "-inf";
  }
  std::array<char, 32> buffer{};
  const std::to_chars_result end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), end.ptr);
  // "3e-04" reads better as "3e-4".
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text[exponent + 2] == '0') {
    text.erase(exponent + 2, 1);
  }
  // Without a point or an exponent TOML would read an integer.
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

std::string type_text(const FieldValue& value) {
  static constexpr std::array<const char*, std::variant_size_v<FieldValue>> kNames = {
      "true or false",
      "an integer",
      "a number",
      "a string",
      "a list of true or false",
      "a list of integers",
      "a list of numbers",
      "a list of strings"};
  return kNames[value.index()];
}

std::string rule_text(const FieldRule& rule) {
  if (const Range* range = std::get_if<Range>(&rule)) {
    return range_text(*range);
  }
  std::string words;
  if (const Choice* choice = std::get_if<Choice>(&rule)) {
    for (const std::string& word : choice->words) {
      words += (words.empty() ? "one of " : ", ") + quoted(word);
    }
  }
  return words;
}

std::string print_toml(const std::vector<ConfigField>& fields) {
  return grouped_toml(fields, [](const ConfigField&) { return std::string(); });
}

std::string print_annotated_toml(const std::vector<ConfigField>& fields) {
  return grouped_toml(fields, [](const ConfigField& field) {
    const std::string rule = rule_text(field.rule);
    return "# " + field.meaning + ": " + type_text(field.value) +
           (rule.empty() ? "" : ", " + rule) + "\n";
  });
}

std::string print_help(const std::vector<ConfigField>& fields) {
  std::size_t width = 0;
  for (const ConfigField& field : fields) {
    width = std::max(width, field.key.size());
  }
  std::string text;
  for (const ConfigField& field : fields) {
    const std::string rule = rule_text(field.rule);
    text += "  " + field.key + std::string(width + 2 - field.key.size(), ' ') + field.meaning +
            " (" + type_text(field.value) + (rule.empty() ? "" : ", " + rule) + ") [" +
            field_toml(field) + "]\n";
  }
  return text;
}

std::string print_json(const std::vector<ConfigField>& fields) {
  Json root = Json::object();
  for (const ConfigField& field : fields) {
    Json* object = &root;
    std::size_t begin = 0;
    for (std::size_t dot = field.key.find('.'); dot != std::string::npos;
         dot = field.key.find('.', begin)) {
      object = &(*object)[field.key.substr(begin, dot - begin)];
      begin = dot + 1;
    }
    (*object)[field.key.substr(begin)] =
        std::visit([](const auto* value) { return value_json(*value); }, field.value);
  }
  return root.dump(2);
}

std::string print_reference(const std::vector<ConfigField>& fields) {
  std::string table = "| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n";
  for (const ConfigField& field : fields) {
    table += "| `" + field.key + "` | " + type_text(field.value) + " | `" +
             markdown_cell(field_toml(field)) + "` | " + markdown_cell(rule_text(field.rule)) +
             " | " + markdown_cell(field.meaning) + " |\n";
  }
  return table;
}

} // namespace baton
