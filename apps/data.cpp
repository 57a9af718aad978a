// SPDX-License-Identifier: Apache-2.0
// baton data: `build` makes a dataset of tokens from text, `inspect` shows one.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/data_inspect.h"
#include "baton/base/log.h"
#include "baton/base/progress.h"
#include "baton/data/builder.h"

namespace baton {
namespace {

struct BuildOptions {
  BuildConfig config;
  std::string format = "auto";
  std::string split = "file";
  std::string bad_lines = "fail";
  std::string type = "auto";
};

CorpusFormat format_of(const std::string& name) {
  if (name == "text") {
    return CorpusFormat::kText;
  }
  return name == "jsonl" ? CorpusFormat::kJsonLines : CorpusFormat::kAuto;
}

std::optional<TokenType> type_of(const std::string& name) {
  return name == "auto" ? std::nullopt : std::optional(token_type_of(name));
}

void print_report(const BuildReport& report) {
  if (!report.skipped_files.empty()) {
    log_warning(
        "passed over " + std::to_string(report.skipped_files.size()) +
        " empty or binary files, the first is " + report.skipped_files.front());
  }
  if (report.bad_lines > 0) {
    log_warning(
        "passed over " + std::to_string(report.bad_lines) +
        (report.bad_lines == 1 ? " bad line" : " bad lines"));
  }
  std::int64_t tokens = 0;
  for (const BuildReport::Dataset& dataset : report.datasets) {
    tokens += dataset.tokens;
    std::printf(
        "%s: %lld documents, %lld tokens%s\n",
        dataset.prefix.c_str(),
        static_cast<long long>(dataset.documents),
        static_cast<long long>(dataset.tokens),
        dataset.masked ? ", with a loss mask" : "");
  }
  const double megabytes = static_cast<double>(report.bytes) / 1e6;
  std::printf(
      "%.1f MB of text in %.2f s, %.1f MB/s, %s tokens/s\n",
      megabytes,
      report.seconds,
      megabytes / report.seconds,
      count_text(static_cast<double>(tokens) / report.seconds).c_str());
}

void add_format_options(CLI::App& build, BuildOptions& options) {
  build
      .add_option(
          "--bad-lines",
          options.bad_lines,
          "what a line of JSON without a record does: fail ends the build, skip passes over it; "
          "either way file and line are named")
      ->check(CLI::IsMember({"fail", "skip"}))
      ->type_name("TEXT")
      ->capture_default_str();
  build
      .add_option(
          "--dtype",
          options.type,
          "how a token is stored: auto (uint16 below 65500 ids, int32 above) or an integer type")
      ->check(CLI::IsMember({"auto", "uint8", "int8", "int16", "uint16", "int32", "int64"}))
      ->type_name("TEXT")
      ->capture_default_str();
  build
      .add_option(
          "--max-sequence",
          options.config.longest_sequence,
          "tokens of a sequence of the index: a longer document becomes several; 0 sets no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void add_build_command(CLI::App& data) {
  auto options = std::make_shared<BuildOptions>();
  BuildConfig& config = options->config;
  CLI::App* build = data.add_subcommand("build", "make OUTPUT.bin and OUTPUT.idx from text");
  build
      ->add_option(
          "--input",
          config.corpus.inputs,
          "text files, JSON lines, folders of them; gzip and Zstandard files, too")
      ->required();
  build->add_option("--output", config.output, "prefix of the files to write")->required();
  build->add_option("--format", options->format, "auto (by the file's name), text or jsonl")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}))
      ->type_name("TEXT")
      ->capture_default_str();
  build
      ->add_option(
          "--field",
          config.field,
          "the field of a JSON object that holds its text; objects without it give \"prompt\" and "
          "\"completion\", of which the loss counts the completion only")
      ->capture_default_str();
  build
      ->add_option(
          "--split-documents",
          options->split,
          "where a text file's documents end: file, blank-line, or line=TEXT for lines equal to "
          "TEXT")
      ->capture_default_str();
  build
      ->add_option(
          "--tokenizer",
          config.tokenizer,
          "byte, or a tokenizer.json, a .model file, or a folder with one")
      ->capture_default_str();
  add_format_options(*build, *options);
  build->add_option("--threads", config.threads, "0: one for each processor")
      ->capture_default_str();
  build
      ->add_option(
          "--holdout",
          config.holdout,
          "share of the documents that is kept for evaluation: writes OUTPUT_train and "
          "OUTPUT_valid")
      ->capture_default_str();
  build->add_option("--seed", config.seed, "of the choice of those documents")
      ->capture_default_str();
  build->add_flag("--overwrite", config.overwrite, "replace an older dataset");
  build->callback([options] {
    options->config.corpus.format = format_of(options->format);
    options->config.corpus.split = parse_document_split(options->split);
    options->config.bad_lines = options->bad_lines == "skip" ? BadLines::kSkip : BadLines::kFail;
    options->config.type = type_of(options->type);
    print_report(build_dataset(options->config));
  });
}

} // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "datasets of tokens");
  data->require_subcommand(1);
  add_build_command(*data);
  add_inspect_command(*data);
}

} // namespace baton
