// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/pipeline_runner.h"

#include <array>
#include <map>
#include <tuple>
#include <utility>

#include <ATen/ATen.h>

namespace baton::parallel {
namespace {

FinishMessage finish(Pending pending) {
  return [pending = std::make_shared<Pending>(std::move(pending))] { pending->wait(); };
}

/// One step of one rank.
class Step {
 public:
  Step(const PipelineShape& shape, PipelineTransport& transport, const PipelineWorks& works)
      : shape_(shape), transport_(transport), works_(works) {}

  void act(const PipelineAction& action) {
    switch (action.verb) {
      case Verb::kReceive:
        return receive(action);
      case Verb::kRun:
        return run(action);
      case Verb::kSend:
        return send(action);
    }
  }

  void finish_sends() {
    for (FinishMessage& sent : sent_) {
      if (sent) {
        std::exchange(sent, nullptr)();
      }
    }
  }

 private:
  using Key = std::tuple<Pass, int, int>; ///< the work that needs the message
  struct Message {
    at::Tensor values;
    FinishMessage arrive; ///< none where it is there
  };

  void receive(const PipelineAction& action) {
    const at::Tensor room = works_.allocate(action.microbatch);
    inbox_[{action.pass, action.stage, action.microbatch}] = {
        room, transport_.start_receive(action, room)};
  }

  at::Tensor take_input(const PipelineAction& action) {
    if (!source_of(shape_, action.pass, action.stage)) {
      return {};
    }
    const auto found = inbox_.find({action.pass, action.stage, action.microbatch});
    TORCH_INTERNAL_ASSERT(found != inbox_.end(), "pipeline: no input to ", to_string(action));
    const Message message = std::move(found->second);
    inbox_.erase(found);
    if (message.arrive) {
      message.arrive();
    }
    return message.values;
  }

  void run(const PipelineAction& action) {
    const auto& work = action.pass == Pass::kForward ? works_.forward : works_.backward;
    at::Tensor output = work(action.stage, action.microbatch, take_input(action));
    const std::optional<int> target = target_of(shape_, action.pass, action.stage);
    if (!target) {
      return;
    }
    TORCH_INTERNAL_ASSERT(output.defined(), "pipeline: nothing comes of ", to_string(action));
    if (shape_.ranks == 1) {
      inbox_[{action.pass, *target, action.microbatch}] = {std::move(output), nullptr};
    } else {
      made_ = std::move(output);
    }
  }

  // The one before has been on its way for a whole work, and its memory is free after this.
  void send(const PipelineAction& action) {
    FinishMessage& sent = sent_[static_cast<std::size_t>(action.pass)];
    if (sent) {
      std::exchange(sent, nullptr)();
    }
    sent = transport_.start_send(action, std::exchange(made_, {}).contiguous());
  }

  const PipelineShape& shape_;
  PipelineTransport& transport_;
  const PipelineWorks& works_;
  std::map<Key, Message> inbox_;
  at::Tensor made_; ///< by the last work, to be sent
  std::array<FinishMessage, 2> sent_;
};

} // namespace

FinishMessage LinkTransport::start_send(const PipelineAction& action, const at::Tensor& values) {
  const Group& link = action.pass == Pass::kForward ? links_.activations_out : links_.gradients_out;
  if (values.numel() == 0) {
    return nullptr; // both ends know
  }
  const at::Tensor flat = values.view({-1});
  return finish(link.start_all_to_all(flat, flat.slice(0, 0, 0), {0, flat.numel()}, {0, 0}));
}

FinishMessage LinkTransport::start_receive(const PipelineAction& action, const at::Tensor& values) {
  const Group& link = action.pass == Pass::kForward ? links_.activations_in : links_.gradients_in;
  if (values.numel() == 0) {
    return nullptr; // both ends know
  }
  const at::Tensor flat = values.view({-1});
  return finish(link.start_all_to_all(flat.slice(0, 0, 0), flat, {0, 0}, {flat.numel(), 0}));
}

PipelineRunner::PipelineRunner(
    const PipelineSchedule& schedule,
    int rank,
    PipelineTransport& transport)
    : schedule_(schedule), rank_(rank), transport_(transport) {}

void PipelineRunner::run(const PipelineWorks& works) const {
  Step step(schedule_.shape, transport_, works);
  for (const PipelineAction& action : schedule_.ranks.at(static_cast<std::size_t>(rank_))) {
    step.act(action);
  }
  step.finish_sends();
}

} // namespace baton::parallel
