// SPDX-License-Identifier: Apache-2.0
// Steps of layers, one after the other, as one piece of work.
#pragma once

#include <memory>

namespace baton::ops {

/// While one lives, the steps of whole layers (`mamba2_step_`, `squared_relu_mlp_step` and their
/// like) that its thread calls on a CPU are checked and put in a row, and run together later: in
/// one parallel region, so that between layers no thread waits for the caller and memory does not
/// rest. Until they have run, what they returned and the states they advance are not to be read.
/// An exception on the way leaves the states of all that have not run as they were.
class StepChain {
 public:
  /// Throws c10::Error if the thread has one already.
  StepChain();
  /// What has not run is forgotten.
  ~StepChain();
  StepChain(const StepChain&) = delete;
  StepChain& operator=(const StepChain&) = delete;

  /// Runs what the thread's chain holds so far, if there is one: for who reads what steps made.
  static void run();

  struct Steps;

 private:
  std::unique_ptr<Steps> steps_;
};

} // namespace baton::ops
