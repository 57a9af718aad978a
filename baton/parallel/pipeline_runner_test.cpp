// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/pipeline_runner.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/parallel/thread_ranks.h"

namespace baton::parallel {
namespace {

/// Where neighbours meet. A send does not return before its receive has begun: no transport makes
/// ranks wait for each other more than this.
class Rendezvous {
 public:
  explicit Rendezvous(std::chrono::seconds patience = std::chrono::seconds(60))
      : patience_(patience) {}

  struct Place {
    PipelineAction action; ///< of the receive
    at::Tensor values;
    bool filled = false;
  };

  std::shared_ptr<Place> post(int rank, const PipelineAction& action, const at::Tensor& values) {
    const std::lock_guard lock(mutex_);
    auto place = std::make_shared<Place>(Place{action, values});
    posted_[{action.pass, rank}].push_back(place);
    changed_.notify_all();
    return place;
  }

  /// Fills the oldest receive of `rank`, and checks that it is the one for this message.
  void deliver(int rank, const PipelineAction& wanted, const at::Tensor& values) {
    std::unique_lock lock(mutex_);
    std::deque<std::shared_ptr<Place>>& places = posted_[{wanted.pass, rank}];
    wait(
        lock, [&] { return !places.empty(); }, "to hand over: " + to_string(wanted));
    TORCH_CHECK(
        places.front()->action == wanted,
        to_string(places.front()->action),
        " where is sent: ",
        to_string(wanted));
    places.front()->values.copy_(values);
    places.front()->filled = true;
    places.pop_front();
    changed_.notify_all();
  }

  void await(const Place& place) {
    std::unique_lock lock(mutex_);
    wait(
        lock, [&] { return place.filled; }, to_string(place.action));
  }

 private:
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, const Done& done, const std::string& what) {
    TORCH_CHECK(changed_.wait_for(lock, patience_, done), "waits for ever ", what);
  }

  std::chrono::seconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<Pass, int>, std::deque<std::shared_ptr<Place>>> posted_;
};

class RendezvousTransport : public PipelineTransport {
 public:
  RendezvousTransport(const PipelineShape& shape, int rank, Rendezvous& meeting)
      : shape_(shape), rank_(rank), meeting_(meeting) {}

  FinishMessage start_send(const PipelineAction& action, const at::Tensor& values) override {
    const int target = target_of(shape_, action.pass, action.stage).value();
    meeting_.deliver(
        shape_.rank_of(target), {Verb::kReceive, action.pass, target, action.microbatch}, values);
    return nullptr;
  }

  FinishMessage start_receive(const PipelineAction& action, const at::Tensor& values) override {
    const auto place = meeting_.post(rank_, action, values);
    return [this, place] { meeting_.await(*place); };
  }

 private:
  PipelineShape shape_;
  int rank_;
  Rendezvous& meeting_;
};

/// Stages of some layers each, which do arithmetic whose order shows in its result.
class NumberWorks {
 public:
  NumberWorks(const PipelineShape& shape, const std::vector<int>& layers)
      : shape_(shape), layers_(layers) {}

  PipelineWorks works() {
    return {
        .forward =
            [this](int stage, int microbatch, const at::Tensor& input) {
              return work(Pass::kForward, stage, microbatch, input);
            },
        .backward =
            [this](int stage, int microbatch, const at::Tensor& gradient) {
              return work(Pass::kBackward, stage, microbatch, gradient);
            },
        .allocate = [](int microbatch) { return at::empty({microbatch + 1}, at::kLong); }};
  }

  std::vector<PipelineAction> order;                ///< of all works
  std::map<std::pair<Pass, int>, at::Tensor> found; ///< what the ends make, by microbatch

 private:
  at::Tensor work(Pass pass, int stage, int microbatch, const at::Tensor& input) {
    order.push_back({Verb::kRun, pass, stage, microbatch});
    at::Tensor values = input.defined() ? input : at::arange(microbatch + 1, at::kLong);
    const int layers = layers_[static_cast<std::size_t>(stage)];
    for (int i = 0; i < layers; ++i) {
      values = (values * 31 + 10 * stage + i + 1) % 1000003;
    }
    if (!target_of(shape_, pass, stage)) {
      found[{pass, microbatch}] = values;
    }
    return values;
  }

  PipelineShape shape_;
  std::vector<int> layers_;
};

/// What `works` finds on each rank, in the order of the schedule, and what they must find.
class Numbers {
 public:
  Numbers(PipelineSchedule schedule, const std::vector<int>& layers)
      : schedule_(std::move(schedule)), layers_(layers) {
    const PipelineShape& shape = schedule_.shape;
    for (int m = 0; m < shape.microbatches; ++m) {
      NumberWorks serial(shape, layers);
      const PipelineWorks stages = serial.works();
      at::Tensor forward;
      at::Tensor backward;
      for (int stage = 0; stage < shape.stages(); ++stage) {
        forward = stages.forward(stage, m, forward);
      }
      for (int stage = shape.stages() - 1; stage >= 0; --stage) {
        backward = stages.backward(stage, m, backward);
      }
      wanted_[{Pass::kForward, m}] = forward;
      wanted_[{Pass::kBackward, m}] = backward;
    }
  }

  const PipelineSchedule& schedule() const { return schedule_; }

  /// Moves every receive to right before its work.
  void receive_late() {
    for (std::vector<PipelineAction>& actions : schedule_.ranks) {
      std::vector<PipelineAction> late;
      for (const PipelineAction& action : actions) {
        if (action.verb == Verb::kReceive) {
          continue;
        }
        PipelineAction receive = action;
        receive.verb = Verb::kReceive;
        if (action.verb == Verb::kRun &&
            std::find(actions.begin(), actions.end(), receive) != actions.end()) {
          late.push_back(receive);
        }
        late.push_back(action);
      }
      actions = late;
    }
  }

  void run_and_check(int rank, PipelineTransport& transport) const {
    NumberWorks works(schedule_.shape, layers_);
    PipelineRunner(schedule_, rank, transport).run(works.works());
    std::vector<PipelineAction> order;
    for (const PipelineAction& action : schedule_.ranks[static_cast<std::size_t>(rank)]) {
      if (action.verb == Verb::kRun) {
        order.push_back(action);
      }
    }
    EXPECT_EQ(works.order, order);
    const bool last = rank == schedule_.shape.ranks - 1;
    const bool first = rank == 0 && std::any_of(order.begin(), order.end(), [](const auto& work) {
                         return work.pass == Pass::kBackward;
                       });
    const std::size_t ends = (first ? 1 : 0) + (last ? 1 : 0);
    EXPECT_EQ(works.found.size(), ends * static_cast<std::size_t>(schedule_.shape.microbatches));
    for (const auto& [key, values] : works.found) {
      EXPECT_TRUE(at::equal(values, wanted_.at(key)));
    }
  }

 private:
  PipelineSchedule schedule_;
  std::vector<int> layers_;
  std::map<std::pair<Pass, int>, at::Tensor> wanted_;
};

void run_over_rendezvous(
    const Numbers& numbers,
    std::chrono::seconds patience = std::chrono::seconds(60)) {
  const PipelineShape& shape = numbers.schedule().shape;
  Rendezvous meeting(patience);
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(shape.ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < shape.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        RendezvousTransport transport(shape, rank, meeting);
        numbers.run_and_check(rank, transport);
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const std::exception_ptr& each : thrown) {
    if (each) {
      std::rethrow_exception(each);
    }
  }
}

/// Any ranks, virtual stages, microbatches and layers of the stages; every fourth has forward
/// passes only.
Numbers draw_numbers(std::mt19937& random) {
  const auto draw = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  PipelineShape shape{.ranks = draw(1, 6), .virtual_stages = draw(1, 4), .microbatches = 1};
  const bool forward_only = draw(1, 4) == 1;
  const bool any_count = forward_only || shape.virtual_stages == 1;
  shape.microbatches = any_count ? draw(1, 12) : shape.ranks * draw(1, 3);
  std::vector<int> layers;
  for (int stage = 0; stage < shape.stages(); ++stage) {
    layers.push_back(draw(0, 3));
  }
  return {forward_only ? make_forward_schedule(shape) : make_pipeline_schedule(shape), layers};
}

TEST(PipelineRunner, ThousandSchedulesNeverWaitForEver) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 1000; ++trial) {
    const Numbers numbers = draw_numbers(random);
    const PipelineShape& shape = numbers.schedule().shape;
    SCOPED_TRACE(
        std::to_string(shape.ranks) + " ranks, " + std::to_string(shape.virtual_stages) +
        " virtual stages, " + std::to_string(shape.microbatches) + " microbatches");
    run_over_rendezvous(numbers);
    if (testing::Test::HasFailure()) {
      return;
    }
  }
}

// The test above must see what it looks for: where receives begin only before their own works, the
// two ranks send to each other and neither receives.
TEST(PipelineRunner, TheRendezvousSeesRanksThatWaitForEachOther) {
  Numbers numbers(make_pipeline_schedule({2, 1, 3}), {1, 1});
  numbers.receive_late();
  EXPECT_THROW(run_over_rendezvous(numbers, std::chrono::seconds(1)), c10::Error);
}

TEST(PipelineRunner, MovesMessagesOverGloo) {
  for (const PipelineShape& shape :
       {PipelineShape{2, 1, 5},
        PipelineShape{2, 3, 4},
        PipelineShape{3, 1, 2},
        PipelineShape{3, 2, 6},
        PipelineShape{4, 2, 8}}) {
    const Numbers numbers(
        make_pipeline_schedule(shape),
        std::vector<int>(static_cast<std::size_t>(shape.stages()), 2));
    run_ranks({{1, 1, 1, shape.ranks}}, [&](const Mesh& mesh) {
      LinkTransport transport(mesh.pipeline_links());
      for (int step = 0; step < 2; ++step) {
        numbers.run_and_check(mesh.coordinate(Axis::kPipeline), transport);
      }
    });
  }
}

// Each pipeline of a mesh has links of its own.
TEST(PipelineRunner, PipelinesOfOneMeshAreApart) {
  const PipelineShape shape{2, 2, 2};
  const Numbers numbers(make_pipeline_schedule(shape), {1, 0, 2, 1});
  run_ranks({{1, 2, 2, 2}}, [&](const Mesh& mesh) {
    LinkTransport transport(mesh.pipeline_links());
    numbers.run_and_check(mesh.coordinate(Axis::kPipeline), transport);
  });
}

} // namespace
} // namespace baton::parallel
