// SPDX-License-Identifier: Apache-2.0
// Ten training steps in fp64 against tests/golden/golden.safetensors, which an independent program
// wrote from the equations (tests/golden/make_golden.py).
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/layout.h"
#include "baton/checkpoint/safetensors.h"
#include "baton/model/hybrid_model.h"
#include "baton/train/optimizer.h"

namespace baton::train {
namespace {

constexpr std::int64_t kIgnored = -100;
// Two fp64 programs that sum in other orders, one by chunks and one token by token: 1e-14 a step,
// amplified by ten updates that divide by the root of small squares.
constexpr double kTolerance = 1e-9;

std::filesystem::path golden_file() {
  std::filesystem::path folder = std::filesystem::canonical("/proc/self/exe").parent_path();
  while (!std::filesystem::exists(folder / "tests/golden/golden.safetensors")) {
    TORCH_CHECK(folder.has_relative_path(), "no tests/golden above the test program");
    folder = folder.parent_path();
  }
  return folder / "tests/golden/golden.safetensors";
}

model::ModelConfig golden_config(const std::string& name) {
  model::ModelConfig config;
  config.pattern = "M-M*-";
  config.width = 24;
  config.vocabulary = 29;
  config.dtype = "fp64";
  config.norm_eps = 1e-5;
  config.mamba.num_heads = 4;
  config.mamba.head_dim = 8;
  config.mamba.num_groups = 2;
  config.mamba.state_size = 6;
  config.mamba.conv_width = 4;
  config.attention.num_heads = 4;
  config.attention.num_kv_heads = 2;
  config.attention.head_dim = 6;
  config.attention.rotary.base = 256.0;
  config.attention.rotary.fraction = 2.0 / 3.0;
  config.mlp.hidden = 40;
  config.mlp.activation = name;
  if (name == "swiglu") {
    config.mamba.d_per_channel = true;
    config.mamba.dt_min = 0.1;
    config.mamba.dt_max = 0.6;
  }
  return config;
}

SequenceLayout layout_of(const at::Tensor& starts, const at::Tensor& first_positions) {
  std::vector<SequenceLayout::Sequence> sequences;
  for (std::int64_t i = 0; i < first_positions.numel(); ++i) {
    SequenceLayout::Sequence sequence;
    sequence.length = (starts[i + 1] - starts[i]).item<std::int64_t>();
    sequence.first_position = first_positions[i].item<std::int64_t>();
    sequences.push_back(sequence);
  }
  return make_layout(std::move(sequences));
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  Golden() : file_(golden_file()), model_(golden_config(GetParam())) {
    model_.parameters().allocate(at::kDouble, at::kCPU);
    for (const nn::Parameter& parameter : model_.parameters().parameters()) {
      parameter.value.detach().copy_(stored("start." + parameter.spec.name));
    }
  }

  at::Tensor stored(const std::string& name) const { return file_.view(GetParam() + "/" + name); }

  at::Tensor mean_loss(std::int64_t step) const {
    const SequenceLayout layout =
        layout_of(file_.view("starts")[step], file_.view("first_positions")[step]);
    const nn::StepContext context{.layout = layout, .positions_T = layout.positions()};
    const at::Tensor labels_T = file_.view("labels")[step];
    const at::Tensor hidden_TD = model_.hidden(file_.view("tokens")[step], context);
    return model_.loss(hidden_TD, labels_T, std::nullopt).loss_sum / (labels_T != kIgnored).sum();
  }

  void expect_stored(const at::Tensor& value, const std::string& name) const {
    const at::Tensor expected = stored(name);
    const double scale = std::max(1.0, expected.abs().max().item<double>());
    EXPECT_LE((value - expected).abs().max().item<double>(), kTolerance * scale) << name;
  }

  checkpoint::SafetensorsFile file_;
  model::HybridModel model_;
};

TEST_P(Golden, HoldsTheModelsParametersAndNoOthers) {
  std::size_t count = 0;
  for (const checkpoint::StoredTensor& tensor : file_.header().tensors) {
    count += tensor.name.rfind(GetParam() + "/start.", 0) == 0 ? 1 : 0;
  }
  EXPECT_EQ(count, model_.parameters().parameters().size());
}

TEST_P(Golden, TenStepsGiveTheStoredNumbers) {
  OptimizerConfig config;
  config.beta1 = 0.9;
  config.beta2 = 0.95;
  config.eps = 1e-8;
  config.weight_decay = 0.1;
  config.clip_norm = 2.0;
  AdamW optimizer(model_.parameters(), config);
  const at::Tensor losses = stored("losses");
  const at::Tensor norms = stored("grad_norms");
  for (std::int64_t step = 0; step < losses.numel(); ++step) {
    const at::Tensor loss = mean_loss(step);
    ASSERT_EQ(loss.scalar_type(), at::kDouble);
    EXPECT_NEAR(loss.item<double>(), losses[step].item<double>(), kTolerance) << step;
    loss.backward();
    if (step == 0) {
      for (const nn::Parameter& parameter : model_.parameters().parameters()) {
        expect_stored(parameter.value.grad(), "grad." + parameter.spec.name);
      }
    }
    const StepReport report = optimizer.step({.lr = 1e-2}, gradients(model_.parameters()));
    EXPECT_NEAR(report.grad_norm, norms[step].item<double>(), kTolerance) << step;
    clear_gradients(model_.parameters());
  }
  for (const nn::Parameter& parameter : model_.parameters().parameters()) {
    expect_stored(parameter.value.detach(), "final." + parameter.spec.name);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models,
    Golden,
    testing::Values("squared_relu", "swiglu"),
    [](const testing::TestParamInfo<std::string>& info) { return info.param; });

} // namespace
} // namespace baton::train
