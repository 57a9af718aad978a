// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/strict_json.h"

#include <set>
#include <vector>

#include "baton/base/error.h"

namespace baton::checkpoint {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxQuoted = 120;

} // namespace

nlohmann::json parse_strict_json(std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> open_objects;
  const auto watch = [&](int depth, Event event, nlohmann::json& parsed) {
    if (depth > kMaxDepth) {
      throw Error("JSON nests deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    if (event == Event::object_start) {
      open_objects.emplace_back();
    } else if (event == Event::object_end) {
      open_objects.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw Error("key " + in_quotes(key) + " stands twice in one JSON object");
      }
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::parse_error& error) {
    throw Error("not valid JSON at byte " + std::to_string(error.byte));
  } catch (const nlohmann::json::exception&) {
    throw Error("not valid JSON: a number is out of range");
  }
}

std::string in_quotes(std::string_view text) {
  const bool cut = text.size() > kMaxQuoted;
  const nlohmann::json value = std::string(text.substr(0, kMaxQuoted)) + (cut ? "..." : "");
  return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

} // namespace baton::checkpoint
