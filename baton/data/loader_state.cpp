// SPDX-License-Identifier: Apache-2.0
#include "baton/data/loader_state.h"

#include <limits>

#include <nlohmann/json.hpp>

#include "baton/base/error.h"

namespace baton {
namespace {

// The one list of the fields: writing and reading both walk it.
template <class State, class Visit>
void visit_fields(State& state, const Visit& visit) {
  visit("microbatch", state.microbatch);
  visit("epoch", state.epoch);
  visit("position", state.position);
  visit("offset", state.offset);
  visit("tokens", state.tokens);
  visit("seed", state.seed);
  visit("dataset_documents", state.dataset_documents);
  visit("dataset_tokens", state.dataset_tokens);
}

struct ReadField {
  const nlohmann::json& object;

  template <class Value>
  void operator()(const char* name, Value& value) const {
    const auto found = object.find(name);
    if (found == object.end()) {
      throw Error(std::string("loader state: no field \"") + name + "\"");
    }
    // Not a negative number, and for signed fields not one beyond 2^63.
    if (!found->is_number_unsigned() ||
        found->template get<std::uint64_t>() >
            static_cast<std::uint64_t>(std::numeric_limits<Value>::max())) {
      throw Error(
          std::string("loader state: \"") + name + "\" must be a whole number from 0, not " +
          found->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    value = found->template get<Value>();
  }
};

} // namespace

std::string to_json(const LoaderState& state) {
  nlohmann::ordered_json object;
  visit_fields(state, [&object](const char* name, auto value) { object[name] = value; });
  return object.dump();
}

LoaderState loader_state_from_json(const std::string& json) {
  const nlohmann::json object = nlohmann::json::parse(json, nullptr, false);
  if (!object.is_object()) {
    throw Error("loader state: not a JSON object");
  }
  LoaderState state;
  visit_fields(state, ReadField{object});
  return state;
}

} // namespace baton
