// SPDX-License-Identifier: Apache-2.0
#include "baton/train/step_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "baton/parallel/pipeline.h"

namespace baton::train {
namespace {

using parallel::Axis;

constexpr double kFloatBytes = 4.0;
constexpr double kMomentBytes = 8.0;
constexpr double kBucketBytes = 32.0 * 1024.0 * 1024.0; // of gradients that travel at once
constexpr double kTravelling = 2.0; // buckets that a deterministic reduction receives at once
constexpr double kBackwardShare = 2.0 / 3.0; // of a microbatch's time
// Of five exchanges of hidden states in a layer two run beside products of the backward pass.
constexpr double kTensorExposed = 3.0 / 5.0;
// Sides of a product's tiles, one a multiprocessor at a time; where there are few of them they are
// cut along the depth, which loses at most this share.
constexpr double kTile = 128.0;
constexpr double kLeastFilled = 0.5;
// Heads times sequences a multiprocessor from which on the scan is at its full rate.
constexpr double kScanFull = 1.5;

/// Share of the multiprocessors that the tiles of a product keep busy.
double filled(double rows, double columns, double processors) {
  const double tiles = std::ceil(rows / kTile) * std::ceil(columns / kTile);
  return std::max(kLeastFilled, tiles / (std::ceil(tiles / processors) * processors));
}

double product_seconds(const Product& product, const GpuInfo& gpu, double rate) {
  const auto processors = static_cast<double>(gpu.processors);
  // y, dx and dW.
  const double work = 1.0 / filled(product.rows, product.columns, processors) +
                      1.0 / filled(product.rows, product.depth, processors) +
                      1.0 / filled(product.depth, product.columns, processors);
  return product.operations() * work / rate;
}

double share_of_others(double ranks) {
  return (ranks - 1.0) / ranks;
}

} // namespace

TimePlan layer_time(const LayerCosts& costs, const GpuInfo& gpu, bool fp32) {
  const double slower = fp32 ? gpu.product / gpu.fp32_product : 1.0;
  TimePlan time;
  for (const Product& product : costs.products) {
    time[TimePart::kProducts] += product_seconds(product, gpu, gpu.product / slower);
  }
  const bool full = costs.scan_blocks >= kScanFull * gpu.processors;
  const double scan = costs.scan / (full ? gpu.scan : gpu.scan_sparse);
  time[TimePart::kScan] = slower * (scan + kScanBackward * costs.scan / gpu.scan_backward +
                                    costs.sweeps * gpu.sweep_share * scan);
  const double attention = costs.attention / (costs.attended > gpu.cache ? gpu.attention_far : 1.0);
  time[TimePart::kAttention] =
      slower * attention * (1.0 / gpu.attention + kAttentionBackward / gpu.attention_backward);
  time[TimePart::kPasses] = (costs.passes + costs.passes_backward) / gpu.passes;
  return time;
}

double microbatches_alive(const PlanMesh& mesh, std::int64_t microbatches, std::int64_t rank) {
  const auto m = static_cast<double>(microbatches);
  const auto p = static_cast<double>(mesh.pp);
  const auto v = static_cast<double>(mesh.virtual_stages);
  const double behind = p - static_cast<double>(rank) - 1.0;
  return mesh.virtual_stages == 1 ? std::min(m, behind + 1.0)
                                  : std::min(m * v, 2.0 * behind + (v - 1.0) * p + 1.0) / v;
}

double operations_per_token(const Workload& workload) {
  const LayerShare alone{.tokens = workload.tokens_per_microbatch, .document = workload.document};
  double sum = (1.0 + kProductBackward) * head_costs(workload.model, alone).operations();
  for (const char symbol : model::parse_pattern(workload.model.pattern).layers) {
    const LayerCosts costs = layer_costs(symbol, workload.model, alone);
    sum += (1.0 + kProductBackward) * costs.product_operations() +
           (1.0 + kScanBackward) * costs.scan + (1.0 + kAttentionBackward) * costs.attention;
  }
  return sum / static_cast<double>(workload.tokens_per_microbatch);
}

StepModel::StepModel(
    const Workload& workload,
    const ModelValues& values,
    const PlanMesh& mesh,
    const GpuInfo& gpu)
    : workload_(workload),
      mesh_(mesh),
      gpu_(gpu),
      element_(static_cast<double>(c10::elementSize(workload.model.scalar_type()))),
      share_{
          .tokens = workload.tokens_per_microbatch,
          .document = workload.document,
          .tp = mesh.tp,
          .cp = mesh.cp,
          .rules = mesh.rules},
      microbatches_(workload.tokens_per_step / (workload.tokens_per_microbatch * mesh.dp)),
      replicas_(mesh.dp * mesh.cp),
      parts_(make_parts(values)) {}

void StepModel::add_layer(Part& part, const LayerCosts& costs) const {
  part.kept += costs.kept;
  part.transient = std::max(part.transient, costs.transient);
  part.operations.products += (1.0 + kProductBackward) * costs.product_operations();
  part.operations.scan += (1.0 + kScanBackward) * costs.scan;
  part.operations.attention += (1.0 + kAttentionBackward) * costs.attention;
  part.tensor += costs.tensor;
  part.context += costs.context;
  part.time.add(layer_time(costs, gpu_, !is_bf16()), 1.0);
}

std::vector<StepModel::Part> StepModel::make_parts(const ModelValues& values) const {
  const model::LayerPattern pattern = model::parse_pattern(workload_.model.pattern);
  std::map<char, LayerCosts> costs;
  for (const char symbol : pattern.layers) {
    if (!costs.contains(symbol)) {
      costs.emplace(symbol, layer_costs(symbol, workload_.model, share_));
    }
  }
  std::vector<Part> parts(static_cast<std::size_t>(mesh_.pp));
  const auto stages = stages_of(workload_, mesh_);
  for (const model::PipelineStage& stage : stages) {
    Part& part = parts[static_cast<std::size_t>(stage.rank)];
    const double before = part.time.total();
    auto layer = static_cast<std::size_t>(stage.offset);
    for (const char symbol : stage.layers) {
      add_layer(part, costs.at(symbol));
      part.layers += 1.0;
      part.values += values.layers[layer++];
    }
    part.kept += hidden_bytes(); // what it hands on
    part.stages.push_back(part.time.total() - before);
  }
  const double before_embedding = parts.front().time.total();
  add_layer(parts.front(), embedding_costs(workload_.model, share_));
  parts.front().stages.front() += parts.front().time.total() - before_embedding;
  const double before_head = parts.back().time.total();
  LayerCosts head = head_costs(workload_.model, share_);
  parts.back().kept_once = std::exchange(head.kept, 0.0);
  parts.back().kept -= hidden_bytes();
  add_layer(parts.back(), head);
  parts.back().stages.back() += parts.back().time.total() - before_head;
  parts.front().values += values.embedding;
  parts.back().values += values.head;
  if (workload_.model.tied && mesh_.pp > 1) {
    parts.back().values += values.embedding; // the head's copy
  }
  return parts;
}

std::int64_t StepModel::slowest_rank() const {
  const auto slower = [&](const Part& a, const Part& b) {
    return microbatch_time(a).total() < microbatch_time(b).total();
  };
  return std::max_element(parts_.begin(), parts_.end(), slower) - parts_.begin();
}

double StepModel::num_values(const Part& part) const {
  const auto tp = static_cast<double>(mesh_.tp);
  return part.values.narrow(tp) + part.values.wide(tp);
}

MemoryPlan StepModel::memory(std::int64_t rank) const {
  const Part& part = this->part(rank);
  const auto tp = static_cast<double>(mesh_.tp);
  const double narrow = part.values.narrow(tp);
  const double wide = part.values.wide(tp);
  const bool masters = workload_.optimizer.master_weights && is_bf16();

  MemoryPlan memory;
  memory.weights = element_ * narrow + kFloatBytes * wide;
  memory.gradients = sums_gradients() ? kFloatBytes * partial_sums() * (narrow + wide)
                                      : element_ * narrow + kFloatBytes * wide;
  if (workload_.deterministic_reduce && replicas_ > 1) {
    memory.gradients += kTravelling * kBucketBytes;
  }
  memory.optimizer = (kMomentBytes * (narrow + wide) + (masters ? kFloatBytes * narrow : 0.0)) /
                     static_cast<double>(replicas_);
  memory.activations = microbatches_alive(mesh_, microbatches_, rank) * part.kept + part.kept_once;
  memory.transient = part.transient;
  memory.runtime =
      gpu_.runtime + group_bytes() + gpu_.slack * (memory.activations + memory.transient);
  return memory;
}

/// A binary counter over microbatches holds a sum for each bit.
double StepModel::partial_sums() const {
  return workload_.deterministic_reduce
             ? std::max(1.0, std::ceil(std::log2(static_cast<double>(microbatches_))))
             : 1.0;
}

/// Groups with collectives are all ranks, each of tp, cp and dp that has several, and the replicas.
/// Messages go from rank to rank along tp and cp, and along pp, which has no collectives, over the
/// two ways to each neighbour.
double StepModel::group_bytes() const {
  const auto count = [](std::initializer_list<std::int64_t> sizes) {
    return static_cast<double>(
        std::count_if(sizes.begin(), sizes.end(), [](std::int64_t size) { return size > 1; }));
  };
  constexpr double kLinks = 4.0;
  return gpu_.group_runtime * count({mesh_.gpus(), mesh_.tp, mesh_.cp, mesh_.dp, replicas_}) +
         gpu_.exchange_runtime * (count({mesh_.tp, mesh_.cp}) + kLinks * count({mesh_.pp}));
}

OperationsPlan StepModel::operations(std::int64_t rank) const {
  const OperationsPlan& one = part(rank).operations;
  const auto m = static_cast<double>(microbatches_);
  return {m * one.products, m * one.scan, m * one.attention};
}

bool StepModel::leaves_node(std::int64_t stride, std::int64_t ranks) const {
  const std::int64_t node = gpu_.gpus_per_node;
  return mesh_.gpus() > node && node % (stride * ranks) != 0;
}

/// Of a group that leaves the node each member there has an adapter, all of which carry the group's
/// traffic; where nodes have unlike numbers of members, the fewest count.
double StepModel::bytes_per_second(std::int64_t stride, std::int64_t ranks) const {
  const double inside = gpu_.nvlink.bytes_per_second;
  if (!leaves_node(stride, ranks)) {
    return inside;
  }
  const std::int64_t members =
      std::gcd(std::max<std::int64_t>(1, gpu_.gpus_per_node / stride), ranks);
  return std::min(inside, static_cast<double>(members) * gpu_.network.bytes_per_second);
}

double StepModel::seconds(const Messages& messages, std::int64_t stride, std::int64_t ranks) const {
  const LinkInfo& link = leaves_node(stride, ranks) ? gpu_.network : gpu_.nvlink;
  return messages.bytes / bytes_per_second(stride, ranks) + messages.steps * link.latency;
}

double StepModel::exposed(double taken, double waited) const {
  return waited + gpu_.hidden * (taken - waited);
}

TrafficPlan StepModel::tensor_traffic(const Part& part) const {
  const Messages sent = part.tensor * static_cast<double>(microbatches_);
  const double taken = seconds(sent, 1, mesh_.tp);
  return {
      Axis::kTensor,
      mesh_.tp,
      sent.bytes,
      leaves_node(1, mesh_.tp),
      taken,
      exposed(taken, kTensorExposed * taken)};
}

TrafficPlan StepModel::context_traffic(const Part& part) const {
  const Messages sent = part.context * static_cast<double>(microbatches_);
  const double taken = seconds(sent, mesh_.tp, mesh_.cp);
  return {Axis::kContext, mesh_.cp, sent.bytes, leaves_node(mesh_.tp, mesh_.cp), taken, taken};
}

/// Gradients are summed in fp32, bucket after bucket, behind the last backward pass; parameters
/// are gathered in their dtype behind the update. The last bucket has nothing to hide behind.
TrafficPlan StepModel::gradient_traffic(const Part& part) const {
  const auto tp = static_cast<double>(mesh_.tp);
  const double others = share_of_others(static_cast<double>(replicas_));
  const double gradients = kFloatBytes * num_values(part);
  const double buckets = std::max(1.0, std::ceil(gradients / kBucketBytes));
  const double parameters = element_ * part.values.narrow(tp) + kFloatBytes * part.values.wide(tp);
  const Messages summed = Messages::of_collectives(buckets, others * gradients, replicas_);
  const Messages gathered = Messages::of_collectives(buckets, others * parameters, replicas_);
  const double sum = seconds(summed, mesh_.tp, replicas_);
  const double gather = seconds(gathered, mesh_.tp, replicas_);
  const double backward = kBackwardShare * microbatch_time(part).total();
  return {
      Axis::kData,
      replicas_,
      summed.bytes + gathered.bytes,
      leaves_node(mesh_.tp, replicas_),
      sum + gather,
      exposed(sum, std::max(sum - backward, sum / buckets)) +
          exposed(gather, std::max(gather - update_seconds(part), gather / buckets))};
}

double StepModel::hidden_bytes() const {
  const double element = workload_.model.residual_fp32 ? kFloatBytes : element_;
  return element * static_cast<double>(workload_.tokens_per_microbatch) /
         static_cast<double>(mesh_.cp * mesh_.tp) * static_cast<double>(workload_.model.width);
}

/// Hidden states and their gradients, for each stage of a rank. Only the messages that fill and
/// drain the pipeline are waited for.
TrafficPlan StepModel::pipeline_traffic() const {
  const std::int64_t stride = mesh_.gpus() / mesh_.pp;
  const double hidden = hidden_bytes();
  const double count = 2.0 * static_cast<double>(microbatches_ * mesh_.virtual_stages);
  const bool network = leaves_node(stride, mesh_.pp);
  const LinkInfo& link = network ? gpu_.network : gpu_.nvlink;
  const double one = hidden / link.bytes_per_second + link.latency;
  return {
      Axis::kPipeline,
      mesh_.pp,
      count * hidden,
      network,
      count * one,
      2.0 * static_cast<double>(mesh_.pp - 1) * one};
}

std::vector<TrafficPlan> StepModel::traffic(std::int64_t rank) const {
  std::vector<TrafficPlan> all;
  if (mesh_.tp > 1) {
    all.push_back(tensor_traffic(part(rank)));
  }
  if (mesh_.cp > 1) {
    all.push_back(context_traffic(part(rank)));
  }
  if (replicas_ > 1) {
    all.push_back(gradient_traffic(part(rank)));
  }
  if (mesh_.pp > 1) {
    all.push_back(pipeline_traffic());
  }
  return all;
}

/// Gradient, moments and master are read, all but the gradient written, and the parameter; before
/// that the gradient is read for its norm.
double StepModel::update_seconds(const Part& part) const {
  const double gradient = sums_gradients() ? kFloatBytes : element_;
  const bool masters = workload_.optimizer.master_weights && is_bf16();
  const double bytes =
      gradient + 2.0 * kMomentBytes + (masters ? 2.0 * kFloatBytes + element_ : 2.0 * element_);
  return num_values(part) / static_cast<double>(replicas_) *
         (bytes / gpu_.update + gradient / gpu_.passes);
}

TimePlan StepModel::microbatch_time(const Part& part) const {
  TimePlan time = part.time;
  if (sums_gradients()) {
    // Half of the sums of a binary counter are added to others once more.
    const double again = workload_.deterministic_reduce ? 1.5 : 0.0;
    time[TimePart::kPasses] +=
        num_values(part) * (element_ + (2.0 + again) * kFloatBytes) / gpu_.passes;
  }
  if (mesh_.tp > 1) {
    time[TimePart::kTensor] = tensor_traffic(part).exposed / static_cast<double>(microbatches_);
  }
  time[TimePart::kContext] = mesh_.cp > 1 ? seconds(part.context, mesh_.tp, mesh_.cp) : 0.0;
  const double host = mesh_.cp > 1 ? gpu_.host_per_shared_layer : gpu_.host_per_layer;
  time[TimePart::kLaunches] =
      std::max(part.layers * gpu_.gaps_per_layer, part.layers * host - time.total());
  return time;
}

double StepModel::pipeline_wait(double slowest) const {
  // Once it is full, each further microbatch takes as long as the slowest rank does.
  const std::int64_t scheduled = std::min(microbatches_, 2 * mesh_.pp);
  const parallel::PipelineShape shape{
      .ranks = static_cast<int>(mesh_.pp),
      .virtual_stages = static_cast<int>(mesh_.virtual_stages),
      .microbatches = static_cast<int>(scheduled)};
  parallel::PipelineCosts costs;
  for (std::size_t stage = 0; stage < static_cast<std::size_t>(shape.stages()); ++stage) {
    const Part& part = parts_[stage % parts_.size()];
    const double own = part.stages[stage / parts_.size()];
    // A stage may have no layers.
    const double both = own > 0.0 ? own / part.time.total() * microbatch_time(part).total() : 0.0;
    costs.forward.push_back((1.0 - kBackwardShare) * both + gpu_.stage_pass);
    costs.backward.push_back(kBackwardShare * both + gpu_.stage_pass);
  }
  const double all =
      parallel::estimate_pipeline(parallel::make_pipeline_schedule(shape), costs).time;
  const double passes = 2.0 * gpu_.stage_pass * static_cast<double>(mesh_.virtual_stages);
  return all + passes * static_cast<double>(microbatches_ - scheduled) -
         slowest * static_cast<double>(scheduled);
}

TimePlan StepModel::time(std::int64_t rank) const {
  const Part& part = this->part(rank);
  const TimePlan one = microbatch_time(part);
  TimePlan time;
  time.add(one, static_cast<double>(microbatches_));
  time[TimePart::kUpdate] = update_seconds(part);
  if (replicas_ > 1) {
    time[TimePart::kData] = gradient_traffic(part).exposed;
  }
  if (mesh_.pp > 1) {
    time[TimePart::kPipeline] = pipeline_wait(one.total()) + pipeline_traffic().exposed;
  }
  return time;
}

double StepModel::bubble() const {
  const auto idle = static_cast<double>(mesh_.pp - 1);
  return idle / (static_cast<double>(microbatches_ * mesh_.virtual_stages) + idle);
}

} // namespace baton::train
