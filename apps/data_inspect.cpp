// SPDX-License-Identifier: Apache-2.0
// baton data inspect: what a dataset of tokens holds.
#include "apps/data_inspect.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "baton/base/config_text.h"
#include "baton/data/indexed_dataset.h"
#include "baton/data/length_statistics.h"
#include "baton/data/tokenizer.h"

namespace baton {
namespace {

struct InspectOptions {
  std::string prefix;
  std::string tokenizer;
  std::int64_t documents = 3;
  std::int64_t tokens = 64;
  bool json = false;
};

// The beginning of a document.
struct Sample {
  std::int64_t length = 0;
  std::vector<std::int32_t> ids;
  std::string text; // empty without a tokenizer
};

struct Inspection {
  LengthStatistics documents;
  LengthStatistics sequences;
  std::vector<Sample> samples;
};

Inspection
inspect(const IndexedDataset& dataset, const Tokenizer* tokenizer, const InspectOptions& options) {
  Inspection result;
  result.documents = length_statistics(
      dataset.num_documents(), [&](std::int64_t i) { return dataset.document_length(i); });
  result.sequences = length_statistics(
      dataset.num_sequences(), [&](std::int64_t i) { return dataset.sequence_length(i); });
  const std::int64_t vocab_size = tokenizer != nullptr ? padded_vocab_size(tokenizer->vocab_size())
                                                       : std::numeric_limits<std::int32_t>::max();
  for (std::int64_t i = 0; i < std::min(options.documents, dataset.num_documents()); ++i) {
    Sample sample{.length = dataset.document_length(i), .ids = {}, .text = ""};
    std::vector<std::int64_t> ids(
        static_cast<std::size_t>(std::min(options.tokens, sample.length)));
    dataset.read_tokens(i, 0, vocab_size, ids);
    sample.ids.assign(ids.begin(), ids.end());
    if (tokenizer != nullptr) {
      sample.text = tokenizer->decode(sample.ids);
    }
    result.samples.push_back(std::move(sample));
  }
  return result;
}

nlohmann::ordered_json to_json(const LengthStatistics& lengths) {
  nlohmann::ordered_json histogram = nlohmann::ordered_json::array();
  for (const LengthStatistics::Bucket& bucket : lengths.histogram) {
    histogram.push_back({{"low", bucket.low}, {"high", bucket.high}, {"count", bucket.count}});
  }
  return {
      {"shortest", lengths.shortest},
      {"longest", lengths.longest},
      {"mean", lengths.mean},
      {"median", lengths.median},
      {"percentile_90", lengths.percentile_90},
      {"percentile_99", lengths.percentile_99},
      {"histogram", histogram}};
}

void print_json(const IndexedDataset& dataset, const Inspection& result, bool decoded) {
  nlohmann::ordered_json samples = nlohmann::ordered_json::array();
  for (const Sample& sample : result.samples) {
    nlohmann::ordered_json entry{{"tokens", sample.length}, {"ids", sample.ids}};
    if (decoded) {
      entry["text"] = sample.text;
    }
    samples.push_back(std::move(entry));
  }
  nlohmann::ordered_json json{
      {"prefix", dataset.paths().prefix},
      {"dtype", token_type_name(dataset.type())},
      {"documents", dataset.num_documents()},
      {"sequences", dataset.num_sequences()},
      {"tokens", dataset.num_tokens()},
      {"counted_tokens", dataset.count_unmasked()},
      {"document_lengths", to_json(result.documents)},
      {"sequence_lengths", to_json(result.sequences)},
      {"first_documents", samples}};
  std::printf("%s\n", json.dump().c_str());
}

void print_lengths(const char* what, const LengthStatistics& lengths) {
  std::printf(
      "tokens of a %s: %lld to %lld, mean %.1f, median %lld, 90%% up to %lld, 99%% up to %lld\n",
      what,
      static_cast<long long>(lengths.shortest),
      static_cast<long long>(lengths.longest),
      lengths.mean,
      static_cast<long long>(lengths.median),
      static_cast<long long>(lengths.percentile_90),
      static_cast<long long>(lengths.percentile_99));
}

void print_histogram(const LengthStatistics& lengths) {
  constexpr std::int64_t kWidth = 40;
  std::int64_t highest = 1;
  for (const LengthStatistics::Bucket& bucket : lengths.histogram) {
    highest = std::max(highest, bucket.count);
  }
  for (const LengthStatistics::Bucket& bucket : lengths.histogram) {
    const std::string range = bucket.low == bucket.high
                                  ? std::to_string(bucket.low)
                                  : std::to_string(bucket.low) + "-" + std::to_string(bucket.high);
    const std::int64_t width = (bucket.count * kWidth + highest - 1) / highest;
    std::printf(
        "  %21s %12lld %s\n",
        range.c_str(),
        static_cast<long long>(bucket.count),
        std::string(static_cast<std::size_t>(width), '#').c_str());
  }
}

void print_for_people(const IndexedDataset& dataset, const Inspection& result, bool decoded) {
  std::printf(
      "%s: %lld documents, %lld sequences, %lld tokens, %s\n",
      dataset.paths().prefix.c_str(),
      static_cast<long long>(dataset.num_documents()),
      static_cast<long long>(dataset.num_sequences()),
      static_cast<long long>(dataset.num_tokens()),
      std::string(token_type_name(dataset.type())).c_str());
  if (dataset.has_mask()) {
    std::printf(
        "loss mask: %lld tokens are counted\n", static_cast<long long>(dataset.count_unmasked()));
  }
  print_lengths("document", result.documents);
  print_histogram(result.documents);
  if (dataset.num_sequences() != dataset.num_documents()) {
    print_lengths("sequence", result.sequences);
  }
  for (std::size_t i = 0; i < result.samples.size(); ++i) {
    const Sample& sample = result.samples[i];
    std::string shown = decoded ? quoted(sample.text) : "";
    for (const std::int32_t id : sample.ids) {
      shown += decoded ? "" : (shown.empty() ? "" : " ") + std::to_string(id);
    }
    const bool cut = static_cast<std::int64_t>(sample.ids.size()) < sample.length;
    std::printf(
        "document %zu, %lld tokens: %s%s\n",
        i,
        static_cast<long long>(sample.length),
        shown.c_str(),
        cut ? " ..." : "");
  }
}

void run_inspect(const InspectOptions& options) {
  const IndexedDataset dataset(options.prefix);
  const bool decoded = !options.tokenizer.empty();
  const std::unique_ptr<const Tokenizer> tokenizer =
      decoded ? make_tokenizer(options.tokenizer) : nullptr;
  const Inspection result = inspect(dataset, tokenizer.get(), options);
  options.json ? print_json(dataset, result, decoded) : print_for_people(dataset, result, decoded);
}

} // namespace

void add_inspect_command(CLI::App& data) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      data.add_subcommand("inspect", "what a dataset holds, and its first documents");
  command->add_option("dataset", options->prefix, "data set without .bin and .idx")->required();
  command->add_option(
      "--tokenizer", options->tokenizer, "decodes the first documents; without it their ids stand");
  command->add_option("--documents", options->documents, "documents that are shown")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "tokens of each that are shown")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object");
  command->callback([options] { run_inspect(*options); });
}

} // namespace baton
