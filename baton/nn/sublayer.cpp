// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/sublayer.h"

#include <c10/util/Exception.h>

#include "baton/nn/attention.h"
#include "baton/nn/mamba2.h"
#include "baton/nn/mixer.h"
#include "baton/nn/mlp.h"
#include "baton/ops/step_chain.h"

namespace baton::nn {

const std::vector<SublayerKind>& sublayer_kinds() {
  static const std::vector<SublayerKind> kinds{
      {'M',
       "Mamba-2",
       [](const SublayerArguments& arguments) -> std::unique_ptr<Sublayer> {
         return std::make_unique<Mixer>(
             arguments, arguments.config.mamba.frame(), [&](const MixerArguments& mixer) {
               return std::make_unique<Mamba2Core>(mixer, arguments.config.mamba);
             });
       }},
      {'*',
       "attention",
       [](const SublayerArguments& arguments) -> std::unique_ptr<Sublayer> {
         return std::make_unique<Attention>(arguments);
       }},
      {'-',
       "MLP",
       [](const SublayerArguments& arguments) -> std::unique_ptr<Sublayer> {
         return std::make_unique<Mlp>(arguments);
       }},
  };
  return kinds;
}

at::Tensor Sublayer::step(
    const at::Tensor& hidden_TD,
    const ops::LayerFrame& frame,
    const StepContext& context) const {
  ops::StepChain::run(); // what made hidden
  return ops::add_out(frame, hidden_TD, forward(ops::norm_in(frame, hidden_TD), context));
}

std::unique_ptr<Sublayer> make_sublayer(char symbol, const SublayerArguments& arguments) {
  std::string known;
  for (const SublayerKind& kind : sublayer_kinds()) {
    if (kind.symbol == symbol) {
      return kind.make(arguments);
    }
    known += std::string(known.empty() ? "'" : ", '") + kind.symbol + "' " + kind.name;
  }
  TORCH_CHECK(
      false,
      "model.pattern: ",
      arguments.layer_name,
      " is '",
      symbol,
      "', a kind of layer that cannot be built yet; there are ",
      known);
}

} // namespace baton::nn
