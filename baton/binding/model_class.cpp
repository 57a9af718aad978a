// SPDX-License-Identifier: Apache-2.0
// `torch.classes.baton.Model`: a whole model for Python, which loads it with this library. Python's
// package documents it (python/baton/model.py) and checks what people pass.
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/custom_class.h>

#include "baton/base/error.h"
#include "baton/base/layout.h"
#include "baton/infer/engine.h"
#include "baton/infer/prompt.h"
#include "baton/train/loaded_model.h"

namespace baton::binding {
namespace {

using Tokens = std::vector<std::int64_t>;

class ModelClass : public torch::CustomClassHolder {
 public:
  ModelClass(std::string path, std::string device, std::vector<std::string> assignments)
      : path_(std::move(path)),
        loaded_(train::load_model(path_, {std::move(device), std::move(assignments)})) {}

  /// Logits [T, V] of packed tokens, in the model's dtype.
  at::Tensor logits(const at::Tensor& tokens_T, const at::Tensor& starts_B1) const {
    return model().logits(hidden(tokens_T, starts_B1));
  }

  /// The sum of the negative log-likelihoods, and those of each token.
  std::tuple<at::Tensor, at::Tensor>
  loss(const at::Tensor& tokens_T, const at::Tensor& labels_T, const at::Tensor& starts_B1) const {
    nn::LossOutput output =
        model().loss(hidden(tokens_T, starts_B1), labels_T.to(device()), std::nullopt);
    return {std::move(output.loss_sum), std::move(output.nll_T)};
  }

  /// New tokens of every prompt, without the one that ended it.
  std::vector<Tokens> generate(
      const std::vector<Tokens>& prompts,
      std::int64_t max_new_tokens,
      const Tokens& ends,
      const c10::Dict<std::string, double>& sampling,
      std::int64_t seed) const {
    infer::SamplingConfig config;
    config.repetition_penalty = sampling.at("repetition_penalty");
    config.temperature = sampling.at("temperature");
    config.top_k = static_cast<std::int64_t>(sampling.at("top_k"));
    config.top_p = sampling.at("top_p");
    config.min_p = sampling.at("min_p");
    config.seed = static_cast<std::uint64_t>(seed);
    config.check();
    std::vector<infer::GenerationRequest> requests;
    requests.reserve(prompts.size());
    for (const Tokens& prompt : prompts) {
      requests.push_back(
          {.prompt = prompt,
           .max_new_tokens = max_new_tokens,
           .end_tokens = ends,
           .sampling = config,
           .sample = requests.size()});
    }
    std::vector<Tokens> generated(prompts.size());
    if (!requests.empty()) {
      const infer::Engine engine(model());
      engine.generate(requests, [&](std::size_t request, std::int64_t token) {
        generated[request].push_back(token);
        return true;
      });
    }
    return generated;
  }

  bool has_tokenizer() const { return loaded_.tokenizer != nullptr; }
  Tokens encode(const std::string& text) const { return infer::prompt_tokens(tokenizer(), text); }
  Tokens end_tokens() const { return infer::end_tokens(tokenizer()); }

  std::string decode(const Tokens& tokens) const {
    const std::vector<std::int32_t> ids(tokens.begin(), tokens.end());
    return tokenizer().decode(ids);
  }

  /// The model's section of its recipe, as JSON.
  std::string config() const { return config_to_json(model().config()); }

  /// The parameters themselves by name: what is written into them changes the model, and they
  /// receive gradients where they are asked to require them.
  c10::Dict<std::string, at::Tensor> parameters() const {
    c10::Dict<std::string, at::Tensor> found;
    for (const nn::Parameter& parameter : model().parameters().parameters()) {
      found.insert(parameter.spec.name, parameter.value);
    }
    return found;
  }

 private:
  const model::HybridModel& model() const { return *loaded_.model; }

  at::Device device() const { return model().parameters().parameters().front().value.device(); }

  const Tokenizer& tokenizer() const {
    if (loaded_.tokenizer == nullptr) {
      throw Error(path_ + ": holds no tokenizer (tokenizer.json or a SentencePiece .model file)");
    }
    return *loaded_.tokenizer;
  }

  /// Ids of a host tensor; those of a device tensor are the caller's to keep inside.
  void check_tokens(const at::Tensor& tokens_T) const {
    if (!tokens_T.is_cpu() || tokens_T.numel() == 0) {
      return;
    }
    const auto [low, high] = at::aminmax(tokens_T);
    const std::int64_t vocabulary = model().config().vocabulary;
    for (const std::int64_t token : {low.item<std::int64_t>(), high.item<std::int64_t>()}) {
      if (token < 0 || token >= vocabulary) {
        throw Error(
            "token id " + std::to_string(token) + " is outside the vocabulary of " +
            std::to_string(vocabulary));
      }
    }
  }

  at::Tensor hidden(const at::Tensor& tokens_T, const at::Tensor& starts_B1) const {
    const std::vector<std::int64_t> starts = checked_starts(starts_B1.cpu(), tokens_T.size(0));
    std::vector<std::int64_t> lengths;
    for (std::size_t b = 0; b + 1 < starts.size(); ++b) {
      lengths.push_back(starts[b + 1] - starts[b]);
    }
    check_tokens(tokens_T);
    const SequenceLayout layout = make_layout_from_lengths(lengths).to(device());
    const nn::StepContext context{.layout = layout, .positions_T = layout.positions()};
    return model().hidden(tokens_T.to(device()), context);
  }

  std::string path_;
  train::LoadedModel loaded_;
};

} // namespace

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.class_<ModelClass>("Model")
      .def(torch::init<std::string, std::string, std::vector<std::string>>())
      .def("logits", &ModelClass::logits)
      .def("loss", &ModelClass::loss)
      .def("generate", &ModelClass::generate)
      .def("has_tokenizer", &ModelClass::has_tokenizer)
      .def("encode", &ModelClass::encode)
      .def("decode", &ModelClass::decode)
      .def("end_tokens", &ModelClass::end_tokens)
      .def("config", &ModelClass::config)
      .def("parameters", &ModelClass::parameters);
}

} // namespace baton::binding
