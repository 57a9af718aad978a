// SPDX-License-Identifier: Apache-2.0
#include "baton/train/run_log.h"

#include <chrono>
#include <utility>

#include "baton/base/file.h"
#include "baton/train/loss_curve.h"

namespace baton::train {
namespace {

std::filesystem::path metrics_path(const std::filesystem::path& folder) {
  return folder / "metrics.jsonl";
}

double wall_time() {
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since_1970).count();
}

std::filesystem::path prepared(const std::filesystem::path& folder, std::int64_t step) {
  make_folders(folder.string());
  truncate_to_step(metrics_path(folder), step);
  return folder;
}

} // namespace

RunLog::RunLog(const std::filesystem::path& run_folder, std::int64_t step)
    : folder_(prepared(run_folder, step)),
      metrics_(metrics_path(folder_)),
      events_(folder_ / "events", step + 1, wall_time()) {}

void RunLog::append(const StepMetrics& metrics) {
  metrics_.append(metrics);
  EventFile::Scalars scalars{
      {"train/loss", metrics.loss},
      {"train/lr", metrics.lr},
      {"train/grad_norm", metrics.grad_norm},
      {"train/tokens_per_second", metrics.tokens_per_second}};
  if (metrics.valid_loss) {
    scalars.emplace_back("valid/loss", *metrics.valid_loss);
  }
  events_.append(metrics.step, wall_time(), scalars);
}

void RunLog::draw_curve() const {
  const std::string title =
      std::filesystem::absolute(folder_).lexically_normal().filename().string();
  write_file_atomically(
      (folder_ / "loss.svg").string(), draw_loss_curve(read_metrics(metrics_path(folder_)), title));
}

} // namespace baton::train
