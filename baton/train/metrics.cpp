// SPDX-License-Identifier: Apache-2.0
#include "baton/train/metrics.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "baton/base/file.h"

namespace baton::train {
namespace {

std::string number_text(double value) {
  if (!std::isfinite(value)) {
    return "null";
  }
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), end.ptr};
}

double number_from(const nlohmann::json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

} // namespace

std::string to_json_line(const StepMetrics& metrics) {
  std::string line = "{\"step\":" + std::to_string(metrics.step);
  line += ",\"loss\":" + number_text(metrics.loss);
  line += ",\"lr\":" + number_text(metrics.lr);
  line += ",\"grad_norm\":" + number_text(metrics.grad_norm);
  line += ",\"tokens_per_second\":" + number_text(metrics.tokens_per_second);
  if (metrics.valid_loss) {
    line += ",\"valid_loss\":" + number_text(*metrics.valid_loss);
  }
  return line + "}";
}

std::optional<StepMetrics> parse_json_line(std::string_view line) {
  try {
    const nlohmann::json object = nlohmann::json::parse(line.begin(), line.end());
    StepMetrics metrics;
    metrics.step = object.at("step").get<std::int64_t>();
    metrics.loss = number_from(object.at("loss"));
    metrics.lr = number_from(object.at("lr"));
    metrics.grad_norm = number_from(object.at("grad_norm"));
    metrics.tokens_per_second = number_from(object.at("tokens_per_second"));
    if (object.contains("valid_loss")) {
      metrics.valid_loss = number_from(object["valid_loss"]);
    }
    return metrics;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::vector<StepMetrics> read_metrics(const std::filesystem::path& path) {
  std::vector<StepMetrics> all;
  if (!std::filesystem::exists(path)) {
    return all;
  }
  const std::string text = read_file(path.string());
  std::size_t begin = 0;
  // What follows the last line break is torn, even where it happens to parse.
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    if (auto metrics = parse_json_line(std::string_view(text).substr(begin, end - begin))) {
      all.push_back(*metrics);
    }
    begin = end + 1;
  }
  return all;
}

void truncate_to_step(const std::filesystem::path& path, std::int64_t step) {
  if (!std::filesystem::exists(path)) {
    return;
  }
  std::string kept;
  for (const StepMetrics& metrics : read_metrics(path)) {
    if (metrics.step <= step) {
      kept += to_json_line(metrics) + "\n";
    }
  }
  if (kept != read_file(path.string())) {
    write_file_atomically(path.string(), kept);
  }
}

} // namespace baton::train
