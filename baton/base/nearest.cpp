// SPDX-License-Identifier: Apache-2.0
#include "baton/base/nearest.h"

#include <algorithm>

namespace baton {
namespace {

// Longer names are cut here: nobody means a key of this length, and the distance is quadratic.
constexpr std::size_t kLongestName = 200;

std::string_view last_part(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

} // namespace

std::size_t edit_distance(std::string_view from, std::string_view to) {
  const std::size_t width = to.size() + 1;
  std::vector<std::size_t> before_last(width);
  std::vector<std::size_t> last(width);
  std::vector<std::size_t> row(width);
  for (std::size_t j = 0; j < width; ++j) {
    row[j] = j;
  }
  for (std::size_t i = 1; i <= from.size(); ++i) {
    before_last.swap(last);
    last.swap(row);
    row[0] = i;
    for (std::size_t j = 1; j < width; ++j) {
      const std::size_t replaced = last[j - 1] + (from[i - 1] == to[j - 1] ? 0 : 1);
      row[j] = std::min({replaced, last[j] + 1, row[j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
      if (swapped) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
  }
  return row[to.size()];
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  name = name.substr(0, kLongestName);
  const std::size_t limit = std::max<std::size_t>(1, std::min<std::size_t>(3, name.size() / 3));
  std::size_t best = limit + 1;
  std::string nearest;
  for (const std::string& candidate : known) {
    // Lengths tell of most names that they are too far away, without the quadratic look.
    const std::size_t longer = std::max(name.size(), candidate.size());
    const std::size_t apart = longer - std::min(name.size(), candidate.size());
    std::size_t distance = apart < best ? edit_distance(name, candidate) : best;
    if (last_part(candidate) == last_part(name)) {
      distance = std::min(distance, limit);
    }
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

} // namespace baton
