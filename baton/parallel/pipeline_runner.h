// SPDX-License-Identifier: Apache-2.0
// Carries out a pipeline's schedule on one rank.
//
// How a trainer uses it (model/ has what is model:: here):
//
//     recipe.model.pattern = model::resolve_pipes(recipe.model, {pp, virtual_stages, tokens});
//     model::HybridModel model(recipe.model, tensor_ranks, {pp, virtual_stages, rank along pp});
//
// and in a step
//
//     const PipelineSchedule schedule = make_pipeline_schedule({pp, virtual_stages, microbatches});
//     LinkTransport transport(mesh.pipeline_links());
//     model::PipelineStep step(model, microbatches, scale);
//     PipelineRunner(schedule, rank along pp, transport).run(step.works());  // adds to the
//     gradients step.losses()                                                  // zeros but on the
//     last rank
//
// then sums over dp and cp as without a pipeline, along `mesh.replicas()`, and of tied embeddings
// over the two ends (model::sum_shared_gradient_). An evaluation runs model::evaluation_works on
// make_forward_schedule. All ranks of a pipeline read the same microbatches, and so know the shapes
// of all messages. One rank alone is a pipeline of one stage.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/parallel/mesh.h"
#include "baton/parallel/pipeline.h"

namespace baton::parallel {

/// A message that has begun, or null for one that is done. What it writes may be read, and what it
/// reads written, after the call; on a GPU the current stream waits, not the host.
using FinishMessage = std::function<void()>;

/// Moves messages between neighbouring ranks. Those of one pass to one rank arrive in the order in
/// which they are sent.
class PipelineTransport {
 public:
  PipelineTransport() = default;
  PipelineTransport(const PipelineTransport&) = delete;
  PipelineTransport& operator=(const PipelineTransport&) = delete;
  virtual ~PipelineTransport() = default;

  /// `action` says which message it is. The tensor is contiguous.
  virtual FinishMessage start_send(const PipelineAction& action, const at::Tensor& values) = 0;
  virtual FinishMessage start_receive(const PipelineAction& action, const at::Tensor& values) = 0;
};

/// Over the mesh's links: each message is one exchange of a group of two in which one rank sends.
class LinkTransport : public PipelineTransport {
 public:
  explicit LinkTransport(PipelineLinks links) : links_(std::move(links)) {}

  FinishMessage start_send(const PipelineAction& action, const at::Tensor& values) override;
  FinishMessage start_receive(const PipelineAction& action, const at::Tensor& values) override;

 private:
  PipelineLinks links_;
};

/// What a rank does with its stages.
struct PipelineWorks {
  /// Output of a stage for a microbatch. `input` is undefined in the first stage, and so may the
  /// output of the last one be. The output is kept until it is sent.
  std::function<at::Tensor(int stage, int microbatch, const at::Tensor& input)> forward;
  /// Gradient of the stage's input from that of its output, which is undefined in the last stage.
  std::function<at::Tensor(int stage, int microbatch, const at::Tensor& gradient)> backward;
  /// Room for a message between two stages, the same shape in both passes and in all stages.
  std::function<at::Tensor(int microbatch)> allocate;
};

class PipelineRunner {
 public:
  /// The schedule and the transport outlive the runner.
  PipelineRunner(const PipelineSchedule& schedule, int rank, PipelineTransport& transport);

  /// One step. All ranks of the pipeline call it at once. Messages are on their way while works
  /// run: a receive begins one message ahead, a send is waited for when the next one of its kind
  /// is due.
  void run(const PipelineWorks& works) const;

 private:
  const PipelineSchedule& schedule_;
  int rank_;
  PipelineTransport& transport_;
};

} // namespace baton::parallel
