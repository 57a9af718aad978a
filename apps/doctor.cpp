// SPDX-License-Identifier: Apache-2.0
// baton doctor: what a folder with a model is, and what is wrong with it.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/model_folder.h"
#include "baton/base/error.h"
#include "baton/checkpoint/hf/export.h"
#include "baton/checkpoint/hf/inspect.h"
#include "baton/infer/program.h"
#include "baton/infer/state_cache.h"
#include "baton/ops/device.h"
#include "baton/train/model_source.h"

namespace baton {
namespace {

namespace hf = checkpoint::hf;

constexpr std::int64_t kProbeTokens = 64;
constexpr std::int64_t kPageSize = 64;
constexpr std::size_t kMostNames = 8; // of one kind of trouble, for people
// Of the logits' standard deviation: other orders of additions, and of roundings to bf16.
constexpr double kTolerance = 1e-3;
constexpr double kTolerance16 = 0.5;

/// What was found, for people and as JSON.
class Report {
 public:
  void fact(const std::string& name, nlohmann::ordered_json value) {
    facts_[name] = std::move(value);
  }
  /// Something that a person should know, and that does not make the model wrong.
  void note(const std::string& text) { notes_.push_back(text); }
  void problem(const std::string& text) { problems_.push_back(text); }
  void problems(const std::string& what, const std::vector<std::string>& names) {
    std::size_t shown = 0;
    for (const std::string& name : names) {
      if (++shown > kMostNames) {
        problem(what + ": and " + std::to_string(names.size() - kMostNames) + " more");
        return;
      }
      problem(what + ": " + name);
    }
  }

  bool healthy() const { return problems_.empty(); }
  std::size_t num_problems() const { return problems_.size(); }

  void print(bool json) const {
    if (json) {
      const nlohmann::ordered_json all{
          {"healthy", healthy()}, {"facts", facts_}, {"notes", notes_}, {"problems", problems_}};
      std::printf(
          "%s\n", all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return;
    }
    for (const auto& [name, value] : facts_.items()) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      std::printf("%-18s %s\n", name.c_str(), text.c_str());
    }
    for (const std::string& note : notes_) {
      std::printf("note: %s\n", note.c_str());
    }
    for (const std::string& problem : problems_) {
      std::printf("problem: %s\n", problem.c_str());
    }
    std::printf("%s\n", healthy() ? "healthy" : "not healthy");
  }

 private:
  nlohmann::ordered_json facts_ = nlohmann::ordered_json::object();
  std::vector<std::string> notes_;
  std::vector<std::string> problems_;
};

void report_config(const model::ModelConfig& config, Report& report) {
  const bool mixes = config.pattern.find('M') != std::string::npos;
  const bool attends = config.pattern.find('*') != std::string::npos;
  report.fact("pattern", config.pattern);
  report.fact("dtype", config.dtype);
  report.fact("width", config.width);
  report.fact("vocabulary", config.vocabulary);
  report.fact("tied", config.tied);
  if (mixes) {
    const nn::Mamba2Config& mamba = config.mamba;
    report.fact(
        "mixer",
        std::to_string(mamba.num_heads) + " heads of " + std::to_string(mamba.head_dim) + ", " +
            std::to_string(mamba.num_groups) + " groups, state " +
            std::to_string(mamba.state_size) + ", convolution " + std::to_string(mamba.conv_width));
    report.fact("norm groups", mamba.norm_group_count());
    const bool limited = mamba.dt_min > 0.0 || !std::isinf(mamba.dt_max);
    char limits[64];
    std::snprintf(limits, sizeof(limits), "%g to %g", mamba.dt_min, mamba.dt_max);
    report.fact("dt limits", limited ? limits : "none");
  }
  if (attends) {
    const nn::AttentionConfig& attention = config.attention;
    report.fact(
        "attention",
        std::to_string(attention.num_heads) + " heads of " + std::to_string(attention.head_dim) +
            ", " + std::to_string(attention.num_kv_heads) + " of keys and values");
    char rotary[96];
    std::snprintf(
        rotary,
        sizeof(rotary),
        "base %g, %g of the channels, scaling %s",
        attention.rotary.base,
        attention.rotary.fraction,
        attention.rotary.scaling.c_str());
    report.fact("rotary", attention.rotary.enabled ? rotary : "none");
  }
  if (config.embedding_multiplier != 1.0 || config.residual_multiplier != 1.0 ||
      config.logits_divisor != 1.0) {
    char text[128];
    std::snprintf(
        text,
        sizeof(text),
        "embedding %g, residual %g, logits divided by %g",
        config.embedding_multiplier,
        config.residual_multiplier,
        config.logits_divisor);
    report.fact("multipliers", text);
  }
}

hf::ParameterShapes shapes_of(const model::HybridModel& model) {
  hf::ParameterShapes shapes;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    shapes[parameter.spec.name] = parameter.spec.shape;
  }
  return shapes;
}

/// The traps of a Hugging Face folder. Returns whether its weights can be read.
bool report_folder(const hf::ModelFolder& folder, const model::HybridModel& model, Report& report) {
  report.fact("family", folder.family().name);
  report.fact("tensor bytes", folder.tensor_bytes());
  for (const std::string& note : folder.family().notes) {
    report.note(note);
  }
  for (const std::string& key : hf::unknown_keys(folder.family(), folder.config())) {
    report.note("config.json: the key " + key + " is not known, it has no effect here");
  }
  hf::TensorFindings found = hf::inspect_tensors(folder, shapes_of(model));
  report.problems("missing tensor", found.missing);
  report.problems("wrong shape", found.wrong_shape);
  report.problems("NaN or infinite values", found.not_finite);
  std::vector<std::string> unused;
  for (const std::string& name : found.unused) {
    if (name == "lm_head.weight" && model.config().tied) {
      report.note("lm_head.weight is there beside tied embeddings, which count");
    } else if (name.rfind("mtp.", 0) == 0) {
      report.note(name + " is for multi-token prediction, which is not read");
    } else {
      unused.push_back(name);
    }
  }
  report.problems("unused tensor", unused);
  return found.missing.empty() && found.wrong_shape.empty();
}

/// Logits of some tokens through the cache, the first `prefill` of them together.
at::Tensor probe(const model::HybridModel& model, std::int64_t prefill) {
  infer::StateCache cache(
      model.states(),
      {.num_slots = 1,
       .num_pages = infer::pages_needed(1, kProbeTokens, kPageSize),
       .page_size = kPageSize,
       .device = model.device()});
  infer::Program program(model, cache);
  const std::int32_t slot = cache.acquire();
  std::vector<at::Tensor> rows;
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 0; i < kProbeTokens; ++i) {
    tokens.push_back((i * i + 7 * i + 1) % model.config().vocabulary);
    if (i + 1 >= prefill) {
      rows.push_back(model.logits(program.run({{.slot = slot, .tokens = tokens}})));
      tokens.clear();
    }
  }
  return at::cat(rows).cpu().to(at::kDouble);
}

void report_probe(const model::HybridModel& model, Report& report) {
  const at::InferenceMode inference;
  const at::Tensor together = probe(model, kProbeTokens);
  const at::Tensor one_by_one = probe(model, 1);
  if (!at::isfinite(together).all().item<bool>()) {
    report.problem("logits are not finite");
    return;
  }
  const double deviation = std::max(together.std().item<double>(), 1e-12);
  const double difference = (together - one_by_one).abs().max().item<double>() / deviation;
  report.fact("prefill - decode", difference);
  const bool narrow = model.config().scalar_type() == at::kBFloat16;
  if (difference > (narrow ? kTolerance16 : kTolerance)) {
    report.problem("prefill and decode differ: " + std::to_string(difference) + " deviations");
  }
}

void report_tokenizer(
    const std::optional<std::string>& name,
    const model::ModelConfig& config,
    Report& report) {
  if (!name) {
    report.note("no tokenizer is in the folder: text cannot be read or written");
    return;
  }
  const auto tokenizer = make_tokenizer(*name);
  report.fact("tokenizer", tokenizer->name());
  report.fact("token ids", tokenizer->vocab_size());
  if (tokenizer->vocab_size() > config.vocabulary) {
    report.problem(
        "the tokenizer has " + std::to_string(tokenizer->vocab_size()) +
        " ids, the embedding only " + std::to_string(config.vocabulary) + " rows");
  } else if (tokenizer->vocab_size() < config.vocabulary) {
    report.note(
        std::to_string(config.vocabulary - tokenizer->vocab_size()) +
        " rows of the embedding belong to no token");
  }
}

void report_export(const model::ModelConfig& config, Report& report) {
  std::string families;
  for (const hf::Family& family : hf::families()) {
    try {
      hf::write_model_config(family, config, nlohmann::json::object());
      families += (families.empty() ? "" : ", ") + family.name;
    } catch (const Error&) {
      // Another family may hold it.
    }
  }
  report.fact("exports as", families.empty() ? "no family" : families);
}

void examine(const std::string& path, at::Device device, Report& report) {
  std::optional<hf::ModelFolder> folder;
  if (hf::is_model_folder(path)) {
    report.fact("kind", "Hugging Face folder");
    folder.emplace(path);
    const model::HybridModel declared(folder->model_config());
    report_config(declared.config(), report);
    if (!report_folder(*folder, declared, report)) {
      return;
    }
  }
  const train::ModelSource source = train::open_model(path);
  if (!folder) {
    report.fact("kind", "checkpoint of Baton");
    report_config(source.recipe.model, report);
  }
  model::ModelConfig config = source.recipe.model;
  config.settle_dtype(device);
  model::HybridModel model(config);
  report.fact("parameters", model.parameters().num_values());
  model.parameters().allocate(config.scalar_type(), device);
  const auto parameters = nn::parameter_tensors(model.parameters());
  source.read_parameters(parameters);
  if (!folder) {
    for (const auto& [name, value] : parameters) {
      if (!at::isfinite(value).all().item<bool>()) {
        report.problem("NaN or infinite values: " + name);
      }
    }
  }
  report_tokenizer(source.tokenizer, config, report);
  report_probe(model, report);
  report_export(config, report);
  if (folder) {
    report.problems("an export would change", hf::changed_by_export(*folder, parameters));
    if (hf::write_model_config(folder->family(), folder->model_config(), folder->config()) !=
        folder->config()) {
      report.problem("an export would change config.json");
    }
  }
}

void run_doctor(const std::string& path, const std::string& device_name, bool json) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    throw Error(path + ": is no folder");
  }
  const at::Device device = ops::open_device(device_name, "--device");
  ops::set_arithmetic(/*deterministic=*/true);
  Report report;
  try {
    examine(path, device, report);
  } catch (const RunError&) {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw; // says nothing about the model
  } catch (const Error& failure) {
    report.problem(failure.what());
  } catch (const c10::Error& failure) {
    const std::string text = failure.what_without_backtrace();
    report.problem(text.substr(0, text.find('\n')));
  }
  report.print(json);
  if (!report.healthy()) {
    throw RunError(
        path + ": " + std::to_string(report.num_problems()) +
        (report.num_problems() == 1 ? " problem" : " problems"));
  }
}

} // namespace

void add_doctor_command(CLI::App& app) {
  const auto path = std::make_shared<std::string>();
  const auto device = std::make_shared<std::string>("cpu");
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("doctor", "say what a model's folder is, and its traps");
  command->add_option("folder", *path, "run folder, checkpoint or Hugging Face folder")->required();
  add_device_option(*command, *device);
  command->add_flag("--json", *json, "print JSON");
  command->callback([path, device, json] { run_doctor(*path, *device, *json); });
}

} // namespace baton
