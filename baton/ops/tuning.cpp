// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/tuning.h"

#include <atomic>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "baton/jit/source.h"

namespace baton::ops {
namespace {

constexpr std::string_view kFolder = "baton/ops/cuda/tuned/";
constexpr std::string_view kEnding = ".toml";

std::atomic<const Tuning*> override{nullptr};

/// 90 of "sm_90a"; 0 without a number.
int number_of(std::string_view arch) {
  const std::size_t digit = arch.find_first_of("0123456789");
  return digit == std::string_view::npos ? 0 : std::atoi(std::string(arch.substr(digit)).c_str());
}

/// All tables by the number of their architecture.
std::vector<std::pair<int, Tuning>> read_tables() {
  std::vector<std::pair<int, Tuning>> tables;
  for (const jit::EmbeddedFile& file : jit::embedded_files()) {
    const std::string_view name = file.name;
    if (name.starts_with(kFolder) && name.ends_with(kEnding)) {
      Tuning tuning;
      read_config(tuning, file.text, file.name);
      tables.emplace_back(number_of(name.substr(kFolder.size())), tuning);
    }
  }
  return tables;
}

} // namespace

const Tuning& tuning_of(const std::string& arch) {
  if (const Tuning* given = override.load()) {
    return *given;
  }
  static const std::vector<std::pair<int, Tuning>> tables = read_tables();
  static const Tuning plain;
  const int wanted = number_of(arch);
  const Tuning* nearest = &plain;
  int least = 0;
  for (const auto& [number, tuning] : tables) {
    const int away = std::abs(number - wanted);
    if (nearest == &plain || away < least) {
      nearest = &tuning;
      least = away;
    }
  }
  return *nearest;
}

const ClassTuning& tuning_of(const std::string& arch, std::int64_t bytes) {
  const Tuning& tuning = tuning_of(arch);
  return bytes > kLargeInput ? tuning.large : tuning.small;
}

TuningOverride::TuningOverride(const Tuning& tuning) {
  override.store(&tuning);
}

TuningOverride::~TuningOverride() {
  override.store(nullptr);
}

} // namespace baton::ops
