// SPDX-License-Identifier: Apache-2.0
// Checkpoints that the ranks of one mesh write and those of another read, to the bit.
#include "baton/train/run_tensors.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/checkpoint/load.h"
#include "baton/checkpoint/save.h"
#include "baton/checkpoint/scratch_folder.h"
#include "baton/model/pipeline_cut.h"
#include "baton/parallel/flat_parameters.h"
#include "baton/parallel/thread_ranks.h"
#include "baton/train/model_ranks.h"

namespace baton::train {
namespace {

using parallel::Axis;
using parallel::Mesh;

// Every kind of layer; one group and one head of keys, which ranks share; nothing else divides.
Recipe make_recipe(const std::string& dtype, bool tied) {
  Recipe recipe;
  recipe.model.pattern = "M*-M-";
  recipe.model.width = 20;
  recipe.model.vocabulary = 23;
  recipe.model.dtype = dtype;
  recipe.model.tied = tied;
  recipe.model.mamba.num_heads = 4;
  recipe.model.mamba.head_dim = 5;
  recipe.model.mamba.num_groups = 1;
  recipe.model.mamba.state_size = 7;
  recipe.model.mamba.bias = true;
  recipe.model.attention.num_heads = 4;
  recipe.model.attention.num_kv_heads = 1;
  recipe.model.attention.head_dim = 6;
  recipe.model.attention.bias = true;
  recipe.model.mlp.hidden = 29;
  recipe.model.mlp.bias = true;
  recipe.model.mlp.activation = "swiglu";
  return recipe;
}

struct Shape {
  int tp = 1;
  int cp = 1;
  int dp = 1;
  int pp = 1;
  int virtual_stages = 1;

  std::string text() const {
    return parallel::MeshShape{{tp, cp, dp, pp}}.text() + " x " + std::to_string(virtual_stages);
  }
};

// At 1, 2 and 4 ranks.
const std::vector<Shape> kShapes{
    {},
    {.tp = 2},
    {.cp = 2},
    {.dp = 2},
    {.pp = 2},
    {.pp = 2, .virtual_stages = 2},
    {.tp = 4},
    {.dp = 4},
    {.pp = 4},
    {.tp = 2, .cp = 2},
    {.tp = 2, .dp = 2},
    {.tp = 2, .pp = 2},
    {.cp = 2, .dp = 2},
    {.cp = 2, .pp = 2},
    {.dp = 2, .pp = 2},
    {.tp = 2, .pp = 2, .virtual_stages = 2}};

/// One rank of a mesh, with a model and an optimizer as a trainer has them.
struct Rank {
  Rank(Recipe recipe, const Shape& shape, const Mesh& mesh)
      : model(make(recipe, shape, mesh)),
        share(*model),
        plan(allocated(*model), mesh.replicas().size(), {.classes = bucket_classes(*model)}),
        flat(allocated(*model), plan, mesh.replicas()),
        optimizer(
            model->parameters(),
            {},
            {plan.owned_by(mesh.replicas().rank()), plan.buckets().size(), mesh.replicas()}) {}

  static std::unique_ptr<model::HybridModel>
  make(Recipe& recipe, const Shape& shape, const Mesh& mesh) {
    recipe.parallel.pp = shape.pp;
    recipe.parallel.virtual_stages = shape.virtual_stages;
    recipe.model.pattern = model::resolve_pipes(recipe.model, pipeline_cut(recipe));
    std::unique_ptr<model::HybridModel> made = make_model(recipe, mesh);
    made->parameters().allocate(recipe.model.scalar_type(), at::kCPU);
    return made;
  }

  static std::vector<at::Tensor> allocated(const model::HybridModel& model) {
    std::vector<at::Tensor> values;
    for (const nn::Parameter& parameter : model.parameters().parameters()) {
      values.push_back(parameter.value);
    }
    return values;
  }

  std::unique_ptr<model::HybridModel> model;
  model::ModelShare share;
  parallel::BucketPlan plan;
  parallel::FlatParameters flat;
  AdamW optimizer;
};

/// The whole tensor of a name, the same on all ranks.
at::Tensor whole_of(const std::string& name, const parallel::TensorSlice& slice) {
  return uniform(RandomKey(5).with(name), slice.shape, -1.0, 1.0).to(slice.dtype);
}

/// Calls `work` with each piece and its place in the whole tensor.
template <class Work>
void for_pieces(const parallel::TensorSlices& slices, const Work& work) {
  for (const auto& [name, slice] : slices) {
    const at::Tensor whole = whole_of(name, slice);
    for (const parallel::TensorPiece& piece : slice.pieces) {
      at::Tensor place = whole;
      for (std::size_t i = 0; i < piece.start.size(); ++i) {
        const auto dim = static_cast<std::int64_t>(i);
        place = place.narrow(dim, piece.start[i], piece.values.size(dim));
      }
      work(name, piece.values, place);
    }
  }
}

void save_on(const Recipe& recipe, const Shape& shape, const std::filesystem::path& run) {
  parallel::run_ranks({{shape.tp, shape.cp, shape.dp, shape.pp}}, [&](const Mesh& mesh) {
    const Rank rank(recipe, shape, mesh);
    const auto fill = [](const std::string&, const at::Tensor& values, const at::Tensor& place) {
      values.copy_(place);
    };
    for_pieces(held_parameters(rank.share), fill);
    for_pieces(held_states(rank.share, rank.optimizer), fill);
    checkpoint::save_checkpoint(
        {.step = 1,
         .program = "0.0.0",
         .parameters = written_parameters(rank.share, rank.optimizer.owned()),
         .optimizer_states = written_states(rank.share, rank.optimizer),
         .train_state = {},
         .recipe = "# recipe\n",
         .tokenizer_files = {}},
        {.run_folder = run, .ranks = mesh.all()});
  });
}

/// Reads each checkpoint on a mesh; `what` says where it comes from.
void expect_read_on(
    const Recipe& recipe,
    const Shape& shape,
    const std::vector<std::pair<std::string, checkpoint::Checkpoint>>& checkpoints) {
  parallel::run_ranks({{shape.tp, shape.cp, shape.dp, shape.pp}}, [&](const Mesh& mesh) {
    const Rank rank(recipe, shape, mesh);
    const parallel::TensorSlices parameters = held_parameters(rank.share);
    const parallel::TensorSlices states = held_states(rank.share, rank.optimizer);
    for (const auto& [name_of_writers, checkpoint] : checkpoints) {
      const std::string& writers = name_of_writers;
      for (const parallel::TensorSlices* slices : {&parameters, &states}) {
        for_pieces(*slices, [](const auto&, const at::Tensor& values, const at::Tensor&) {
          values.fill_(-2.0);
        });
      }
      checkpoint.read_parameter_slices(parameters);
      checkpoint.read_optimizer_states(states);
      for (const parallel::TensorSlices* slices : {&parameters, &states}) {
        for_pieces(
            *slices,
            [&](const std::string& name, const at::Tensor& found, const at::Tensor& place) {
              EXPECT_TRUE(at::equal(found, place))
                  << name << " from " << writers << " to " << shape.text();
            });
      }
    }
  });
}

/// What each of some meshes writes.
std::vector<std::pair<std::string, checkpoint::Checkpoint>> checkpoints_of(
    const Recipe& recipe,
    const std::vector<Shape>& shapes) {
  std::vector<std::pair<std::string, checkpoint::Checkpoint>> checkpoints;
  for (const Shape& writers : shapes) {
    const checkpoint::ScratchFolder run; // an open checkpoint outlives its folder
    save_on(recipe, writers, run.path());
    checkpoints.emplace_back(
        writers.text(),
        checkpoint::open_newest(run.path(), checkpoint::Scope::kWhole, nullptr).value());
  }
  return checkpoints;
}

TEST(RunTensors, EveryMeshReadsWhatEveryOtherWrote) {
  const Recipe recipe = make_recipe("bf16", true);
  const auto checkpoints = checkpoints_of(recipe, kShapes);
  for (const Shape& readers : kShapes) {
    expect_read_on(recipe, readers, checkpoints);
  }
}

TEST(RunTensors, OfUntiedEnds) {
  const Recipe recipe = make_recipe("fp32", false);
  const auto checkpoints = checkpoints_of(recipe, {{.tp = 2, .pp = 2}});
  expect_read_on(recipe, {}, checkpoints);
  expect_read_on(recipe, {.dp = 3}, checkpoints);
}

// Each value of the whole model is written, and counted, once.
TEST(RunTensors, EachValueIsOneRanksToWrite) {
  const Recipe recipe = make_recipe("fp32", true);
  for (const Shape& shape : kShapes) {
    parallel::run_ranks({{shape.tp, shape.cp, shape.dp, shape.pp}}, [&](const Mesh& mesh) {
      const Rank rank(recipe, shape, mesh);
      at::Tensor counted = at::zeros({1}, at::kDouble);
      for (const parallel::BucketSlice& slice : rank.optimizer.owned()) {
        for (const nn::FlatRange& range : rank.share.written_ranges(slice.parameter)) {
          const std::int64_t begin = std::max(range.begin, slice.begin);
          const std::int64_t end = std::min(range.end, slice.begin + slice.length);
          counted += static_cast<double>(std::max<std::int64_t>(0, end - begin));
        }
      }
      mesh.all().all_reduce_(counted);
      for (std::size_t i = 0; i < rank.share.own().size(); ++i) {
        const at::Tensor& value = rank.share.own()[i].value;
        std::int64_t held = 0;
        for (const parallel::TensorPiece& piece : rank.share.held(i, value.detach(), 0).pieces) {
          held += piece.values.numel();
        }
        EXPECT_EQ(held, value.numel()) << shape.text();
      }
      EXPECT_EQ(counted.item<double>(), static_cast<double>(rank.share.num_values()))
          << shape.text();
    });
  }
}

} // namespace
} // namespace baton::train
