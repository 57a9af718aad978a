// SPDX-License-Identifier: Apache-2.0
// A run is a recipe: every choice of a training run in one TOML file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "baton/base/config.h"
#include "baton/model/config.h"
#include "baton/parallel/config.h"
#include "baton/train/optimizer.h"
#include "baton/train/schedule.h"

namespace baton::train {

struct RunConfig {
  std::string folder;
  std::string start_from;
  std::int64_t seed = 1;
  std::string device = "cpu";
  std::int64_t threads = 0;

  template <class V>
  void visit(V& v) {
    v.field("folder", folder, "where checkpoints, metrics and the loss curve go");
    v.field(
        "start_from",
        start_from,
        "model whose weights to start from: a run, a checkpoint or a Hugging Face folder; its "
        "model "
        "section counts, but for keys that the recipe sets");
    v.field("seed", seed, "of start values, data order and dropout", Range::at_least(0.0));
    v.field("device", device, "where tensors live: cpu, cuda (the first GPU) or cuda:N");
    v.field("threads", threads, "CPU threads; 0 takes all cores", Range{0.0, 4096.0});
  }
};

struct DataConfig {
  std::vector<std::string> train;
  std::vector<double> weights;
  std::string valid;
  std::string tokenizer = "byte";
  std::int64_t tokens_per_microbatch = 4096;

  template <class V>
  void visit(V& v) {
    v.field("train", train, "path of the training set without .bin and .idx, or of several");
    v.field(
        "weights",
        weights,
        "shares of the training sets in the tokens, in proportion; empty takes each by its size",
        Range::above(0.0));
    v.field("valid", valid, "path of the held-out set; empty for none");
    v.field(
        "tokenizer",
        tokenizer,
        "how the sets were tokenized: byte, or a tokenizer.json, a .model file, or a folder with "
        "one");
    v.field(
        "tokens_per_microbatch",
        tokens_per_microbatch,
        "tokens of one forward and backward pass",
        Range{1.0, 1 << 30});
  }
};

struct TrainConfig {
  std::int64_t steps = 1000;
  std::int64_t tokens_per_step = 4096;
  std::int64_t eval_interval = 100;
  std::int64_t eval_tokens = 65536;
  bool deterministic = true;
  bool deterministic_reduce = false;
  ScheduleConfig schedule;
  OptimizerConfig optimizer;

  template <class V>
  void visit(V& v) {
    v.field("steps", steps, "updates of the whole run", Range{1.0, 1e12});
    v.field(
        "tokens_per_step",
        tokens_per_step,
        "tokens of one update, a multiple of data.tokens_per_microbatch",
        Range{1.0, 1e12});
    v.field(
        "eval_interval",
        eval_interval,
        "updates between evaluations on data.valid; 0 evaluates at the end only",
        Range::at_least(0.0));
    v.field(
        "eval_tokens", eval_tokens, "tokens of an evaluation; 0 takes all", Range::at_least(0.0));
    v.field("deterministic", deterministic, "let libraries choose deterministic algorithms only");
    v.field(
        "deterministic_reduce",
        deterministic_reduce,
        "the same bits for any number of data-parallel ranks, at the cost of traffic and memory");
    schedule.visit(v);
    optimizer.visit(v);
  }
};

struct CheckpointConfig {
  std::int64_t interval = 500;
  std::int64_t keep = 2;

  template <class V>
  void visit(V& v) {
    v.field(
        "interval",
        interval,
        "updates between checkpoints; 0 saves at the end only",
        Range::at_least(0.0));
    v.field("keep", keep, "newest checkpoints that stay", Range{1.0, 1e6});
  }
};

struct Recipe {
  RunConfig run;
  DataConfig data;
  model::ModelConfig model;
  TrainConfig train;
  CheckpointConfig checkpoint;
  parallel::ParallelConfig parallel;

  template <class V>
  void visit(V& v) {
    v.group("run", run);
    v.group("data", data);
    v.group("model", model);
    v.group("train", train);
    v.group("checkpoint", checkpoint);
    v.group("parallel", parallel);
  }

  std::int64_t microbatches_per_step() const {
    return train.tokens_per_step / data.tokens_per_microbatch;
  }
};

/// Parses the text of a recipe that a checkpoint holds; `name` stands for it in messages. Throws
/// Error, naming key and value, for an unknown key and a wrong value.
Recipe parse_recipe(const std::string& text, const std::string& name);

} // namespace baton::train
