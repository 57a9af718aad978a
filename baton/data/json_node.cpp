// SPDX-License-Identifier: Apache-2.0
#include "baton/data/json_node.h"

#include <cmath>

#include "baton/base/error.h"

namespace baton {

using nlohmann::json;

nlohmann::json parse_json(const std::string& text, const std::string& file) {
  constexpr int kMaxDepth = 64;
  const auto watch = [&file](int depth, json::parse_event_t, json&) {
    if (depth > kMaxDepth) {
      throw Error(file + ": JSON nests deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    throw Error(file + ": not valid JSON at byte " + std::to_string(error.byte));
  } catch (const json::exception&) {
    throw Error(file + ": not valid JSON: a number is out of range");
  }
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMaxQuoted = 120;
  const bool cut = text.size() > kMaxQuoted;
  const json value = std::string(text.substr(0, kMaxQuoted)) + (cut ? "..." : "");
  return value.dump(-1, ' ', true, json::error_handler_t::replace);
}

JsonNode JsonNode::at(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end()) {
    fail("has no \"" + key + "\"");
  }
  return {*found, file_, place_.empty() ? key : place_ + "." + key};
}

std::optional<JsonNode> JsonNode::find(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end() || found->is_null()) {
    return std::nullopt;
  }
  return at(key);
}

std::vector<JsonNode> JsonNode::list() const {
  std::vector<JsonNode> nodes;
  nodes.reserve(array().size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    nodes.push_back({(*value_)[i], file_, place_ + "[" + std::to_string(i) + "]"});
  }
  return nodes;
}

const json& JsonNode::object() const {
  if (!value_->is_object()) {
    fail(std::string("must be an object, not ") + value_->type_name());
  }
  return *value_;
}

const json& JsonNode::array() const {
  if (!value_->is_array()) {
    fail(std::string("must be a list, not ") + value_->type_name());
  }
  return *value_;
}

const std::string& JsonNode::string() const {
  if (!value_->is_string()) {
    fail(std::string("must be a string, not ") + value_->type_name());
  }
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) {
    fail(std::string("must be true or false, not ") + value_->type_name());
  }
  return value_->get<bool>();
}

double JsonNode::number() const {
  if (!value_->is_number() || !std::isfinite(value_->get<double>())) {
    fail(std::string("must be a number, not ") + value_->type_name());
  }
  return value_->get<double>();
}

std::int64_t JsonNode::integer(std::int64_t largest) const {
  // A negative one is far above any limit when it is read without its sign.
  const bool fits = value_->is_number_integer() &&
                    value_->get<std::uint64_t>() <= static_cast<std::uint64_t>(largest);
  if (!fits) {
    fail(
        "must be an integer in [0, " + std::to_string(largest) + "], got " +
        in_quotes(value_->dump(-1, ' ', true, json::error_handler_t::replace)));
  }
  return value_->get<std::int64_t>();
}

bool JsonNode::boolean_or(const std::string& key, bool otherwise) const {
  const auto node = find(key);
  return node ? node->boolean() : otherwise;
}

void JsonNode::fail(const std::string& rule) const {
  throw Error(file_ + ": " + (place_.empty() ? "the file" : place_) + " " + rule);
}

} // namespace baton
