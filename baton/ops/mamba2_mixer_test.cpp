// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/mamba2_mixer.h"

#include <ATen/ATen.h>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

TEST(Mamba2Mixer, RefusesTimeStepsWithoutSoftplus) {
  const std::int64_t T = 3, H = 2, P = 4, G = 1, N = 5;
  Mamba2MixerInputs in{
      .projected_TC = at::ones({T, 2 * H * P + 2 * G * N + H}),
      .conv_weight_CK = at::ones({H * P + 2 * G * N, 4}),
      .A_H = -at::ones({H}),
      .starts_B1 = at::tensor({0, 3}, at::kInt),
      .num_groups = G};
  EXPECT_EQ(mamba2_mixer(in).sizes(), at::IntArrayRef({T, H * P}));
  in.time_step.softplus = false;
  EXPECT_THROW(mamba2_mixer(in), c10::Error);
}

} // namespace
} // namespace baton::ops
