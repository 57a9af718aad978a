// SPDX-License-Identifier: Apache-2.0
// baton logits: what a model says about given tokens, for comparisons.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/model_folder.h"
#include "baton/base/error.h"
#include "baton/base/upload.h"
#include "baton/checkpoint/safetensors.h"
#include "baton/infer/program.h"
#include "baton/infer/state_cache.h"

namespace baton {
namespace {

constexpr std::int64_t kPageSize = 64;

using Sequences = std::vector<std::vector<std::int64_t>>;

struct LogitsArguments {
  std::string model;
  LoadOptions load;
  std::vector<std::string> tokens;
  std::int64_t prefill = 0;
  std::string out;
};

std::vector<std::int64_t> parse_tokens(const std::string& text, std::int64_t vocabulary) {
  std::vector<std::int64_t> tokens;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at <= end; ++at) {
    std::int64_t token = 0;
    const auto [rest, error] = std::from_chars(at, end, token);
    if (error != std::errc() || (rest != end && *rest != ',')) {
      throw Error("--tokens: must be numbers with commas between, got \"" + text + "\"");
    }
    if (token < 0 || token >= vocabulary) {
      throw Error(
          "--tokens: id " + std::to_string(token) + " is outside the vocabulary of " +
          std::to_string(vocabulary));
    }
    tokens.push_back(token);
    at = rest;
  }
  return tokens;
}

/// Logits of all tokens at once, as in training.
at::Tensor whole_logits(const model::HybridModel& model, const Sequences& sequences) {
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> packed;
  for (const auto& tokens : sequences) {
    lengths.push_back(static_cast<std::int64_t>(tokens.size()));
    packed.insert(packed.end(), tokens.begin(), tokens.end());
  }
  const SequenceLayout layout = make_layout_from_lengths(lengths).to(model.device());
  const nn::StepContext context{.layout = layout, .positions_T = layout.positions()};
  return model.logits(model.hidden(upload(at::tensor(packed, at::kLong), model.device()), context));
}

/// The same through the cache: the first `prefill` tokens of each sequence together, the others one
/// by one, as in generation.
at::Tensor
cached_logits(const model::HybridModel& model, const Sequences& sequences, std::int64_t prefill) {
  std::int64_t longest = 0;
  for (const auto& tokens : sequences) {
    longest = std::max(longest, static_cast<std::int64_t>(tokens.size()));
  }
  const auto count = static_cast<std::int64_t>(sequences.size());
  infer::StateCache cache(
      model.states(),
      {.num_slots = count,
       .num_pages = infer::pages_needed(count, longest, kPageSize),
       .page_size = kPageSize,
       .device = model.device()});
  infer::Program program(model, cache);
  std::vector<std::int32_t> slots;
  std::vector<std::vector<at::Tensor>> rows(sequences.size());
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    slots.push_back(cache.acquire());
  }
  for (std::int64_t begin = 0; begin < longest; begin = std::max(prefill, begin + 1)) {
    const std::int64_t step = begin == 0 ? prefill : 1;
    std::vector<infer::BatchItem> items;
    std::vector<std::size_t> owners;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto length = static_cast<std::int64_t>(sequences[i].size());
      if (begin < length) {
        const auto first = sequences[i].begin() + begin;
        items.push_back({slots[i], {first, first + std::min(step, length - begin)}});
        owners.push_back(i);
      }
    }
    const at::Tensor logits = model.logits(program.run(items));
    std::int64_t row = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto length = static_cast<std::int64_t>(items[i].tokens.size());
      rows[owners[i]].push_back(logits.narrow(0, row, length));
      row += length;
    }
  }
  std::vector<at::Tensor> all;
  for (const std::vector<at::Tensor>& own : rows) {
    all.insert(all.end(), own.begin(), own.end());
  }
  return at::cat(all);
}

void run_logits(const LogitsArguments& arguments) {
  const LoadedModel loaded = load_model(arguments.model, arguments.load);
  Sequences sequences;
  for (const std::string& text : arguments.tokens) {
    sequences.push_back(parse_tokens(text, loaded.model->config().vocabulary));
  }
  const at::InferenceMode inference;
  const at::Tensor logits_TV = arguments.prefill == 0
                                   ? whole_logits(*loaded.model, sequences)
                                   : cached_logits(*loaded.model, sequences, arguments.prefill);
  checkpoint::write_safetensors(
      arguments.out, {{"logits", logits_TV.to(at::kFloat).cpu().contiguous()}});
  std::printf(
      "wrote logits [%lld, %lld] to %s\n",
      static_cast<long long>(logits_TV.size(0)),
      static_cast<long long>(logits_TV.size(1)),
      arguments.out.c_str());
}

} // namespace

void add_logits_command(CLI::App& app) {
  auto arguments = std::make_shared<LogitsArguments>();
  CLI::App* command = app.add_subcommand("logits", "write the logits of given tokens");
  add_load_options(*command, arguments->model, arguments->load);
  command
      ->add_option(
          "--tokens", arguments->tokens, "token ids: 1,2,3; once for each sequence of a batch")
      ->required();
  command
      ->add_option(
          "--prefill",
          arguments->prefill,
          "so many tokens of each sequence together, the others one by one through the cache; 0 "
          "takes all at once, without a cache")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--out", arguments->out, "safetensors file: logits [tokens, vocabulary], fp32")
      ->required();
  command->callback([arguments] { run_logits(*arguments); });
}

} // namespace baton
