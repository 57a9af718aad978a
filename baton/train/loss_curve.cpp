// SPDX-License-Identifier: Apache-2.0
#include "baton/train/loss_curve.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <string_view>

namespace baton::train {
namespace {

constexpr double kWidth = 880;
constexpr double kHeight = 500;
constexpr double kLeft = 68;
constexpr double kRight = 856;
constexpr double kTop = 58;
constexpr double kBottom = 444;

constexpr const char* kTrainColor = "#1f6fb4";
constexpr const char* kValidColor = "#d9541e";
constexpr const char* kTextColor = "#24292f";
constexpr const char* kQuietColor = "#57606a";
constexpr const char* kGridColor = "#e4e7eb";

struct Point {
  double x = 0; ///< step
  double y = 0; ///< loss
};

struct Range {
  double low = 0;
  double high = 1;
};

// Maps steps and losses to the picture.
struct Frame {
  Range steps;
  Range losses;

  double x(double step) const {
    return kLeft + (step - steps.low) / (steps.high - steps.low) * (kRight - kLeft);
  }
  double y(double loss) const {
    return kBottom - (loss - losses.low) / (losses.high - losses.low) * (kBottom - kTop);
  }
};

std::string fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  return text;
}

std::string grouped(std::int64_t value) {
  std::string text = std::to_string(value);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3) {
    text.insert(static_cast<std::size_t>(at), ",");
  }
  return text;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (static_cast<unsigned char>(c) >= ' ') {
      out += c;
    }
  }
  return out;
}

// The round distance (1, 2 or 5 times a power of ten) that puts about `count` ticks on a range.
double tick_distance(Range range, int count) {
  const double rough = (range.high - range.low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power * (1 + 1e-9)) {
      return factor * power;
    }
  }
  return 10 * power;
}

std::vector<double> ticks(Range range, double distance) {
  std::vector<double> values;
  const double slack = 1e-9 * (range.high - range.low);
  for (double k = std::ceil((range.low - slack) / distance); k * distance <= range.high + slack;
       ++k) {
    values.push_back(k * distance);
  }
  return values;
}

// Mean over a window around each point. Windows shrink at the left end, where the loss falls fast,
// so that the curve starts at the first value; at the right end they reach to the last value.
std::vector<Point> smoothed(const std::vector<Point>& points) {
  const auto count = static_cast<std::ptrdiff_t>(points.size());
  const std::ptrdiff_t half = count / 60;
  std::vector<double> sums(points.size() + 1, 0.0);
  for (std::size_t i = 0; i < points.size(); ++i) {
    sums[i + 1] = sums[i] + points[i].y;
  }
  std::vector<Point> out;
  out.reserve(points.size());
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const std::ptrdiff_t reach = std::min(half, i);
    const std::ptrdiff_t begin = i - reach;
    const std::ptrdiff_t end = std::min(i + reach, count - 1) + 1;
    const double sum = sums[static_cast<std::size_t>(end)] - sums[static_cast<std::size_t>(begin)];
    out.push_back({points[static_cast<std::size_t>(i)].x, sum / static_cast<double>(end - begin)});
  }
  return out;
}

// A line through all points. Where many points share a column of pixels, its lowest and highest
// value stand for them, so that the document stays small and no spike is lost.
std::string path_of(const std::vector<Point>& points, const Frame& frame) {
  std::string path;
  const auto add = [&](const Point& point) {
    path +=
        (path.empty() ? "M" : "L") + fixed(frame.x(point.x), 1) + " " + fixed(frame.y(point.y), 1);
  };
  for (std::size_t begin = 0; begin < points.size();) {
    const double column = std::floor(frame.x(points[begin].x));
    std::size_t end = begin + 1;
    while (end < points.size() && std::floor(frame.x(points[end].x)) == column) {
      ++end;
    }
    std::size_t low = begin;
    std::size_t high = begin;
    for (std::size_t i = begin; i < end; ++i) {
      low = points[i].y < points[low].y ? i : low;
      high = points[i].y > points[high].y ? i : high;
    }
    add(points[std::min(low, high)]);
    if (low != high) {
      add(points[std::max(low, high)]);
    }
    begin = end;
  }
  return path;
}

std::string text_at(double x, double y, std::string_view text, std::string_view attributes) {
  return "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" " + std::string(attributes) +
         ">" + escaped(text) + "</text>\n";
}

std::string line_path(const std::string& path, const char* color, double width, double opacity) {
  return "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + color + "\" stroke-width=\"" +
         fixed(width, 1) + "\" stroke-opacity=\"" + fixed(opacity, 2) +
         "\" stroke-linejoin=\"round\" stroke-linecap=\"round\"/>\n";
}

Frame frame_of(const std::vector<Point>& train, const std::vector<Point>& valid) {
  Range steps{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  Range losses = steps;
  for (const std::vector<Point>* points : {&train, &valid}) {
    for (const Point& point : *points) {
      steps = {std::min(steps.low, point.x), std::max(steps.high, point.x)};
      losses = {std::min(losses.low, point.y), std::max(losses.high, point.y)};
    }
  }
  if (train.empty() && valid.empty()) {
    return {};
  }
  // Runs that begin near step 0 begin at the corner.
  if (steps.low > 0 && steps.low < 0.05 * steps.high) {
    steps.low = 0;
  }
  // A run of one step, or of one loss, still gets a frame around it.
  if (steps.low == steps.high) {
    steps = {steps.low - 1, steps.high + 1};
  }
  const double margin = losses.low == losses.high ? std::max(1e-3, 0.1 * std::abs(losses.low))
                                                  : 0.05 * (losses.high - losses.low);
  return {steps, {losses.low - margin, losses.high + margin}};
}

std::string axes(const Frame& frame) {
  std::string out;
  const double loss_distance = tick_distance(frame.losses, 12);
  const int decimals = std::clamp(-static_cast<int>(std::floor(std::log10(loss_distance))), 0, 9);
  for (const double loss : ticks(frame.losses, loss_distance)) {
    const std::string y = fixed(frame.y(loss), 1);
    out += "<path d=\"M" + fixed(kLeft, 1) + " " + y + "H" + fixed(kRight, 1) + "\" stroke=\"" +
           kGridColor + "\"/>\n";
    out += text_at(
        kLeft - 9, frame.y(loss) + 4, fixed(loss, decimals), "class=\"tick\" text-anchor=\"end\"");
  }
  const double step_distance = std::max(1.0, tick_distance(frame.steps, 8));
  for (const double step : ticks(frame.steps, step_distance)) {
    const std::string x = fixed(frame.x(step), 1);
    out += "<path d=\"M" + x + " " + fixed(kBottom, 1) + "v5\" stroke=\"" + kQuietColor + "\"/>\n";
    out += text_at(
        frame.x(step),
        kBottom + 20,
        grouped(std::llround(step)),
        "class=\"tick\" text-anchor=\"middle\"");
  }
  out += "<path d=\"M" + fixed(kLeft, 1) + " " + fixed(kBottom, 1) + "H" + fixed(kRight, 1) +
         "\" stroke=\"" + kQuietColor + "\"/>\n";
  out +=
      text_at((kLeft + kRight) / 2, kBottom + 43, "step", "class=\"name\" text-anchor=\"middle\"");
  const std::string middle = fixed((kTop + kBottom) / 2, 1);
  out += "<text class=\"name\" text-anchor=\"middle\" transform=\"translate(20 " + middle +
         ") rotate(-90)\">loss (nats per token)</text>\n";
  return out;
}

// One line of the legend: a sample of the stroke, what it is, and its last value.
std::string
legend_line(double y, const char* color, bool marker, const std::string& name, double last) {
  constexpr double kX = 610;
  std::string out = "<rect x=\"" + fixed(kX - 8, 1) + "\" y=\"" + fixed(y - 16, 1) + "\" width=\"" +
                    fixed(kRight - kX + 8, 1) + "\" height=\"23\" fill=\"#ffffff\"/>\n";
  out += "<path d=\"M" + fixed(kX, 1) + " " + fixed(y - 4, 1) + "h26\" stroke=\"" + color +
         "\" stroke-width=\"2.2\"/>\n";
  if (marker) {
    out += "<circle cx=\"" + fixed(kX + 13, 1) + "\" cy=\"" + fixed(y - 4, 1) +
           "\" r=\"3.2\" fill=\"" + color + "\"/>\n";
  }
  out += text_at(kX + 34, y, name, "class=\"name\"");
  return out + text_at(
                   kRight - 8,
                   y,
                   fixed(last, 3),
                   "class=\"value\" text-anchor=\"end\" fill=\"" + std::string(color) + "\"");
}

std::string
curves(const std::vector<Point>& train, const std::vector<Point>& valid, const Frame& frame) {
  std::string out;
  double legend_y = kTop + 22;
  if (!train.empty()) {
    const std::vector<Point> smooth = smoothed(train);
    out += line_path(path_of(train, frame), kTrainColor, 1.0, 0.40);
    out += line_path(path_of(smooth, frame), kTrainColor, 2.2, 1.0);
    out += legend_line(legend_y, kTrainColor, false, "training, smoothed", smooth.back().y);
    legend_y += 22;
  }
  if (!valid.empty()) {
    out += line_path(path_of(valid, frame), kValidColor, 1.6, 1.0);
    // Markers only while they can be told apart.
    if (valid.size() <= 100) {
      for (const Point& point : valid) {
        out += "<circle cx=\"" + fixed(frame.x(point.x), 1) + "\" cy=\"" +
               fixed(frame.y(point.y), 1) + "\" r=\"3.2\" fill=\"" + kValidColor +
               "\" stroke=\"#ffffff\" stroke-width=\"0.8\"/>\n";
      }
    }
    out += legend_line(legend_y, kValidColor, true, "validation", valid.back().y);
  }
  return out;
}

std::string document_start() {
  const std::string size = fixed(kWidth, 0) + "\" height=\"" + fixed(kHeight, 0);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " +
         fixed(kWidth, 0) + " " + fixed(kHeight, 0) +
         "\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n<style>"
         ".title{font-size:17px;font-weight:600;fill:" +
         kTextColor + "}.name{font-size:13px;fill:" + kTextColor +
         "}.tick{font-size:12px;fill:" + kQuietColor +
         "}.value{font-size:13px;font-weight:600}</style>\n"
         "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
}

} // namespace

std::string draw_loss_curve(const std::vector<StepMetrics>& metrics, const std::string& title) {
  std::vector<Point> train;
  std::vector<Point> valid;
  for (const StepMetrics& each : metrics) {
    if (std::isfinite(each.loss)) {
      train.push_back({static_cast<double>(each.step), each.loss});
    }
    if (each.valid_loss && std::isfinite(*each.valid_loss)) {
      valid.push_back({static_cast<double>(each.step), *each.valid_loss});
    }
  }
  const Frame frame = frame_of(train, valid);
  return document_start() + text_at(kLeft, 34, title, "class=\"title\"") + axes(frame) +
         curves(train, valid, frame) + "</svg>\n";
}

} // namespace baton::train
