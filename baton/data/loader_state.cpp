// SPDX-License-Identifier: Apache-2.0
#include "baton/data/loader_state.h"

#include <limits>
#include <numeric>
#include <type_traits>

#include <nlohmann/json.hpp>

#include "baton/base/error.h"

namespace baton {
namespace {

// The lists of the fields: writing and reading both walk them.
template <class Visit>
void visit_fields(auto& state, const Visit& visit) requires requires {
  state.position;
}
{
  visit("epoch", state.epoch);
  visit("position", state.position);
  visit("offset", state.offset);
  visit("tokens", state.tokens);
  visit("dataset_documents", state.dataset_documents);
  visit("dataset_tokens", state.dataset_tokens);
  visit("share", state.share);
}

template <class Visit>
void visit_fields(auto& state, const Visit& visit) requires requires {
  state.microbatch;
}
{
  visit("microbatch", state.microbatch);
  visit("seed", state.seed);
}

struct WriteField {
  nlohmann::ordered_json& object;

  void operator()(const char* name, auto value) const { object[name] = value; }
};

struct ReadField {
  const nlohmann::json& object;

  template <class Value>
  void operator()(const char* name, Value& value) const {
    const auto found = object.find(name);
    if (found == object.end()) {
      throw Error(std::string("loader state: no field \"") + name + "\"");
    }
    if constexpr (std::is_floating_point_v<Value>) {
      if (!found->is_number()) {
        refuse(name, "a number", *found);
      }
    } else if (
        // Not a negative number, and for signed fields not one beyond 2^63.
        !found->is_number_unsigned() ||
        found->template get<std::uint64_t>() >
            static_cast<std::uint64_t>(std::numeric_limits<Value>::max())) {
      refuse(name, "a whole number from 0", *found);
    }
    value = found->template get<Value>();
  }

 private:
  [[noreturn]] static void refuse(const char* name, const char* rule, const nlohmann::json& found) {
    throw Error(
        std::string("loader state: \"") + name + "\" must be " + rule + ", not " +
        found.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
};

} // namespace

std::int64_t LoaderState::tokens() const {
  return std::accumulate(
      sets.begin(), sets.end(), std::int64_t{0}, [](std::int64_t sum, const SetState& set) {
        return sum + set.tokens;
      });
}

std::string to_json(const LoaderState& state) {
  nlohmann::ordered_json object;
  visit_fields(state, WriteField{object});
  nlohmann::ordered_json& sets = object["sets"] = nlohmann::ordered_json::array();
  for (const SetState& set : state.sets) {
    nlohmann::ordered_json entry;
    visit_fields(set, WriteField{entry});
    sets.push_back(std::move(entry));
  }
  return object.dump();
}

LoaderState loader_state_from_json(const std::string& json) {
  const nlohmann::json object = nlohmann::json::parse(json, nullptr, false);
  if (!object.is_object()) {
    throw Error("loader state: not a JSON object");
  }
  LoaderState state;
  visit_fields(state, ReadField{object});
  const auto sets = object.find("sets");
  if (sets == object.end() || !sets->is_array()) {
    throw Error("loader state: \"sets\" must be a list");
  }
  for (const nlohmann::json& entry : *sets) {
    if (!entry.is_object()) {
      throw Error("loader state: \"sets\" must hold JSON objects");
    }
    visit_fields(state.sets.emplace_back(), ReadField{entry});
  }
  return state;
}

} // namespace baton
