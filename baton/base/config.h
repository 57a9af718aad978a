// SPDX-License-Identifier: Apache-2.0
// One list of fields per struct gives defaults, parsing, checks, printing and the reference.
//
//   struct TrainConfig {
//     double lr = 3e-4;
//     std::string schedule = "cosine";
//     template <class V>
//     void visit(V& v) {
//       v.field("lr", lr, "peak learning rate", Range{0.0, 1.0});
//       v.field("schedule", schedule, "course of the learning rate", Choice{"cosine", "linear"});
//     }
//   };
//   struct Recipe {
//     TrainConfig train;
//     template <class V>
//     void visit(V& v) { v.group("train", train); }
//   };
//
// Free of libtorch, so that the reading of recipes can be fuzzed alone.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace baton {

/// Numbers allowed in a field, both ends included unless `open_low` leaves out the lower one.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool open_low = false;

  static Range at_least(double low) { return {low}; }
  static Range above(double low) { return {low, std::numeric_limits<double>::infinity(), true}; }
  bool holds(double value) const {
    return (open_low ? value > low : value >= low) && value <= high;
  }
};

/// Words allowed in a string field.
struct Choice {
  Choice(std::initializer_list<const char*> list) : words(list.begin(), list.end()) {}
  std::vector<std::string> words;
};

using FieldRule = std::variant<std::monostate, Range, Choice>;

/// Where a field's value lives. Its alternative is the field's type.
using FieldValue = std::variant<
    bool*,
    std::int64_t*,
    double*,
    std::string*,
    std::vector<bool>*,
    std::vector<std::int64_t>*,
    std::vector<double>*,
    std::vector<std::string>*>;

/// One key of a config, its place in the struct and its rule.
struct ConfigField {
  std::string key; ///< with its groups: "train.lr"
  FieldValue value;
  std::string meaning;
  FieldRule rule; ///< applies to each element of a list
};

/// Gathers the fields of a config struct; the visitor of its `visit`.
class FieldCollector {
 public:
  /// A key of the current group. `value` holds its default.
  template <class T>
  void field(std::string_view name, T& value, std::string_view meaning, FieldRule rule = {}) {
    fields_.push_back(
        {prefix_ + std::string(name), FieldValue(&value), std::string(meaning), std::move(rule)});
  }

  /// A nested struct: its keys get the prefix "name.".
  template <class T>
  void group(std::string_view name, T& nested) {
    const std::string outer = prefix_;
    prefix_ += std::string(name) + ".";
    nested.visit(*this);
    prefix_ = outer;
  }

  const std::vector<ConfigField>& fields() const { return fields_; }

 private:
  std::string prefix_;
  std::vector<ConfigField> fields_;
};

/// The fields of `config`, which must outlive the list.
template <class C>
std::vector<ConfigField> config_fields(C& config) {
  FieldCollector collector;
  config.visit(collector);
  return collector.fields();
}

/// Sets `fields` from TOML. `name` stands for the text in messages. Keys that are absent keep their
/// values. Throws Error for bad syntax, an unknown key (with the nearest known one), a wrong type
/// and a value that breaks its rule, naming line, key and value.
void parse_toml(
    const std::vector<ConfigField>& fields,
    std::string_view toml,
    const std::string& name);

/// Sets one field from "key=value", as `--set` takes it. The value is TOML; a string may go without
/// quotes, and a list without brackets ("0.5,0.5"). Throws Error as parse_toml does.
void parse_assignment(const std::vector<ConfigField>& fields, std::string_view assignment);

/// All values as TOML that parse_toml reads back to the same bits.
std::string print_toml(const std::vector<ConfigField>& fields);

/// All values as a JSON object of objects. Infinity, which JSON lacks, is the string "inf" or
/// "-inf".
std::string print_json(const std::vector<ConfigField>& fields);

/// A Markdown table of key, type, default, allowed values and meaning.
std::string print_reference(const std::vector<ConfigField>& fields);

/// Reads TOML into a config, which keeps its old values when that fails.
template <class C>
void read_config(C& config, std::string_view toml, const std::string& name) {
  C parsed = config;
  parse_toml(config_fields(parsed), toml, name);
  config = std::move(parsed);
}

/// Applies one "key=value", or leaves the config as it was when that fails.
template <class C>
void set_config(C& config, std::string_view assignment) {
  C parsed = config;
  parse_assignment(config_fields(parsed), assignment);
  config = std::move(parsed);
}

template <class C>
std::string config_to_toml(C config) {
  return print_toml(config_fields(config));
}

template <class C>
std::string config_to_json(C config) {
  return print_json(config_fields(config));
}

/// The reference of a config struct, from its default values.
template <class C>
std::string config_reference() {
  C config;
  return print_reference(config_fields(config));
}

} // namespace baton
