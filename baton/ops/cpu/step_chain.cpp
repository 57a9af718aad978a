// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/step_chain.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include "baton/ops/cpu/phased_step.h"

namespace baton::ops {

struct StepChain::Steps {
  std::vector<std::unique_ptr<cpu::PhasedStep>> steps;
};

namespace {

thread_local StepChain::Steps* chain_of_thread = nullptr;

} // namespace

StepChain::StepChain() : steps_(std::make_unique<Steps>()) {
  TORCH_CHECK(chain_of_thread == nullptr, "a thread has one chain of steps at a time");
  chain_of_thread = steps_.get();
}

StepChain::~StepChain() {
  chain_of_thread = nullptr;
}

void StepChain::run() {
  if (chain_of_thread == nullptr || chain_of_thread->steps.empty()) {
    return;
  }
  const auto steps = std::exchange(chain_of_thread->steps, {});
  std::vector<cpu::Phase> phases;
  for (const auto& step : steps) {
    std::ranges::move(step->phases(), std::back_inserter(phases));
  }
  cpu::run_phases(phases);
}

namespace cpu {

void run_step(std::unique_ptr<PhasedStep> step) {
  if (chain_of_thread != nullptr) {
    chain_of_thread->steps.push_back(std::move(step));
  } else {
    run_phases(step->phases());
  }
}

} // namespace cpu
} // namespace baton::ops
