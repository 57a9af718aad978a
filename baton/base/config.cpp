// SPDX-License-Identifier: Apache-2.0
#include "baton/base/config.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include <toml++/toml.h>

#include "baton/base/config_text.h"
#include "baton/base/error.h"
#include "baton/base/nearest.h"

namespace baton {
namespace {

constexpr std::size_t kShownCharacters = 60;

// A value as a message shows it: one line, not longer than a line.
std::string shown(const std::string& text) {
  std::string line;
  for (const char c : text) {
    line += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  if (line.size() > kShownCharacters) {
    std::size_t cut = kShownCharacters;
    while (cut > 0 && (static_cast<unsigned char>(line[cut]) & 0xC0) == 0x80) {
      --cut; // not inside a UTF-8 sequence
    }
    line = line.substr(0, cut) + "...";
  }
  return line;
}

std::string describe(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return shown(quoted(node.as_string()->get()));
    case toml::node_type::integer:
      return std::to_string(node.as_integer()->get());
    case toml::node_type::floating_point:
      return number_text(node.as_floating_point()->get());
    case toml::node_type::boolean:
      return node.as_boolean()->get() ? "true" : "false";
    default:
      return "a date or time";
  }
}

// Reads TOML nodes into fields; `name` says where the text came from.
class TomlReader {
 public:
  TomlReader(const std::vector<ConfigField>& fields, std::string name, bool has_lines)
      : fields_(fields), name_(std::move(name)), has_lines_(has_lines) {}

  void table(const toml::table& table, const std::string& prefix) const {
    for (const auto& [name, node] : table) {
      const std::string key = prefix + std::string(name.str());
      const ConfigField* field = find(key);
      if (field != nullptr) {
        assign(*field, node);
      } else if (!is_group(key)) {
        fail_unknown(key, name.source());
      } else if (node.is_table()) {
        this->table(*node.as_table(), key + ".");
      } else {
        fail(key, "is a group of keys, got " + describe(node), node.source());
      }
    }
  }

  void assign(const ConfigField& field, const toml::node& node) const {
    std::visit([&](auto* value) { read(field, node, *value); }, field.value);
  }

  const ConfigField* find(std::string_view key) const {
    const auto found = std::find_if(
        fields_.begin(), fields_.end(), [&](const ConfigField& field) { return field.key == key; });
    return found == fields_.end() ? nullptr : &*found;
  }

  bool is_group(const std::string& key) const {
    const std::string prefix = key + ".";
    return std::any_of(fields_.begin(), fields_.end(), [&](const ConfigField& field) {
      return field.key.compare(0, prefix.size(), prefix) == 0;
    });
  }

  [[noreturn]] void fail_unknown(const std::string& key, const toml::source_region& source) const {
    std::vector<std::string> known;
    for (const ConfigField& field : fields_) {
      for (std::size_t dot = field.key.find('.'); dot != std::string::npos;
           dot = field.key.find('.', dot + 1)) {
        known.push_back(field.key.substr(0, dot));
      }
      known.push_back(field.key);
    }
    const std::string nearest = nearest_name(key, known);
    throw Error(
        place(source) + "unknown key '" + shown(key) + "'" +
        (nearest.empty() ? "" : ", did you mean '" + nearest + "'?"));
  }

  [[noreturn]] void
  fail(const std::string& key, const std::string& rule, const toml::source_region& source) const {
    throw Error(place(source) + key + ": " + rule);
  }

 private:
  std::string place(const toml::source_region& source) const {
    const bool line = has_lines_ && source.begin.line > 0;
    return name_ + (line ? ":" + std::to_string(source.begin.line) : "") + ": ";
  }

  void read(const ConfigField& field, const toml::node& node, bool& value) const {
    const toml::value<bool>* boolean = node.as_boolean();
    if (boolean == nullptr) {
      fail_type(field, "true or false", node);
    }
    value = boolean->get();
  }

  void read(const ConfigField& field, const toml::node& node, std::int64_t& value) const {
    const toml::value<std::int64_t>* integer = node.as_integer();
    if (integer == nullptr) {
      fail_type(field, "an integer", node);
    }
    check_range(field, static_cast<double>(integer->get()), node);
    value = integer->get();
  }

  void read(const ConfigField& field, const toml::node& node, double& value) const {
    const std::optional<double> number = node.is_number() ? node.value<double>() : std::nullopt;
    if (!number || std::isnan(*number)) {
      fail_type(field, "a number", node);
    }
    check_range(field, *number, node);
    value = *number;
  }

  void read(const ConfigField& field, const toml::node& node, std::string& value) const {
    const toml::value<std::string>* text = node.as_string();
    if (text == nullptr) {
      fail_type(field, "a string", node);
    }
    if (text->get().find('\0') != std::string::npos) {
      fail(field.key, "must not hold a zero character", node.source());
    }
    const Choice* choice = std::get_if<Choice>(&field.rule);
    if (choice != nullptr &&
        std::find(choice->words.begin(), choice->words.end(), text->get()) == choice->words.end()) {
      const std::string nearest = nearest_name(text->get(), choice->words);
      fail(
          field.key,
          "must be " + rule_text(field.rule) + ", got " + describe(node) +
              (nearest.empty() ? "" : ", did you mean " + quoted(nearest) + "?"),
          node.source());
    }
    value = text->get();
  }

  template <class T>
  void read(const ConfigField& field, const toml::node& node, std::vector<T>& value) const {
    const toml::array* array = node.as_array();
    if constexpr (std::is_same_v<T, std::string>) {
      if (node.is_string()) { // a list of one may go without brackets
        value.resize(1);
        read(field, node, value.front());
        return;
      }
    }
    if (array == nullptr) {
      fail_type(field, "a list", node);
    }
    std::vector<T> elements;
    for (const toml::node& entry : *array) {
      T element{};
      read(field, entry, element);
      elements.push_back(std::move(element));
    }
    value = std::move(elements);
  }

  [[noreturn]] void
  fail_type(const ConfigField& field, const std::string& wanted, const toml::node& node) const {
    fail(field.key, "must be " + wanted + ", got " + describe(node), node.source());
  }

  void check_range(const ConfigField& field, double value, const toml::node& node) const {
    const Range* range = std::get_if<Range>(&field.rule);
    if (range != nullptr && !range->holds(value)) {
      fail_type(field, rule_text(field.rule), node);
    }
  }

  const std::vector<ConfigField>& fields_;
  std::string name_;
  bool has_lines_;
};

bool is_text(const ConfigField& field) {
  return std::holds_alternative<std::string*>(field.value) ||
         std::holds_alternative<std::vector<std::string>*>(field.value);
}

bool is_list(const ConfigField& field) {
  return std::visit(
      [](auto* value) {
        using T = std::remove_pointer_t<decltype(value)>;
        return !std::is_arithmetic_v<T> && !std::is_same_v<T, std::string>;
      },
      field.value);
}

std::string trimmed(std::string_view text) {
  constexpr const char* kBlanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) {
    return "";
  }
  return std::string(text.substr(first, text.find_last_not_of(kBlanks) - first + 1));
}

// One value of `--set` as TOML: words of string fields get their quotes.
std::string scalar_toml(const ConfigField& field, const std::string& text) {
  const bool has_quotes = !text.empty() && (text.front() == '"' || text.front() == '\'');
  return is_text(field) && !has_quotes ? quoted(text) : text;
}

std::string value_toml(const ConfigField& field, const std::string& text) {
  if (!is_list(field)) {
    return scalar_toml(field, text);
  }
  if (!text.empty() && text.front() == '[') {
    return text;
  }
  std::string list = "[";
  for (std::size_t begin = 0; !text.empty() && begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    list += scalar_toml(field, trimmed(text.substr(begin, end - begin))) + ", ";
    begin = end + 1;
  }
  return list + "]";
}

} // namespace

void parse_toml(
    const std::vector<ConfigField>& fields,
    std::string_view toml,
    const std::string& name) {
  toml::table table;
  try {
    table = toml::parse(toml, name);
  } catch (const toml::parse_error& error) {
    throw Error(
        name + ":" + std::to_string(error.source().begin.line) + ": " +
        shown(std::string(error.description())));
  }
  TomlReader(fields, name, /*has_lines=*/true).table(table, "");
}

void parse_assignment(const std::vector<ConfigField>& fields, std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    throw Error("--set: must be KEY=VALUE, got " + shown(quoted(std::string(assignment))));
  }
  const std::string key = trimmed(assignment.substr(0, equals));
  const std::string text = trimmed(assignment.substr(equals + 1));
  const TomlReader reader(fields, "--set", /*has_lines=*/false);
  const ConfigField* field = reader.find(key);
  if (field == nullptr && reader.is_group(key)) {
    reader.fail(key, "is a group of keys, set one of them", {});
  }
  if (field == nullptr) {
    reader.fail_unknown(key, {});
  }
  toml::table table;
  try {
    table = toml::parse("value = " + value_toml(*field, text));
  } catch (const toml::parse_error&) {
    table.clear();
  }
  // More than one key: the text held a line break and a second assignment.
  if (table.size() != 1) {
    reader.fail(key, "must be " + type_text(field->value) + ", got " + shown(quoted(text)), {});
  }
  reader.assign(*field, table.begin()->second);
}

} // namespace baton
