// SPDX-License-Identifier: Apache-2.0
// What every layer of a stack receives beside the hidden states.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/base/layout.h"
#include "baton/base/random.h"
#include "baton/nn/state_spec.h"
#include "baton/parallel/context.h"

namespace baton::nn {

/// Which form of a layer runs.
enum class Form {
  kTrain,   ///< whole sequences from zero states; gradients flow
  kPrefill, ///< sequences continue from cache slots and leave their states there
  kStep,    ///< as prefill with exactly one token a sequence
};

struct StepContext {
  const SequenceLayout& layout;
  at::Tensor positions_T;           ///< int64, `layout.positions()`, computed once a pass
  const CacheView* cache = nullptr; ///< null in `Form::kTrain`
  Form form = Form::kTrain;
  bool dropout = false;    ///< false in evaluation and inference
  RandomKey random_key{0}; ///< of (seed, "dropout", global microbatch)
  /// Null unless ranks share the stream; `layout` is then that of this rank's tokens.
  const parallel::Context* shared = nullptr;
};

} // namespace baton::nn
