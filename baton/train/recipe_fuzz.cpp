// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any text is a recipe that prints and reads back the same, or a clean error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "baton/base/config.h"
#include "baton/base/error.h"
#include "baton/train/recipe.h"

namespace {

template <class Read>
void expect_round_trip(const Read& read) {
  try {
    const baton::train::Recipe recipe = read();
    const std::string printed = baton::config_to_toml(recipe);
    baton::train::Recipe again;
    baton::read_config(again, printed, "printed");
    if (baton::config_to_toml(again) != printed || baton::config_to_json(recipe).empty()) {
      __builtin_trap();
    }
  } catch (const baton::Error&) {
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  expect_round_trip([&] {
    baton::train::Recipe recipe;
    baton::read_config(recipe, text, "recipe.toml");
    return recipe;
  });
  expect_round_trip([&] {
    baton::train::Recipe recipe;
    baton::set_config(recipe, text);
    return recipe;
  });
  return 0;
}
