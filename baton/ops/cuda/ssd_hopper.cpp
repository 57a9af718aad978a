// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/ssd_hopper.h"

#include <algorithm>

#include "baton/jit/tile_map.h"
#include "baton/ops/cuda/ssd_hopper_arguments.cuh"
#include "baton/ops/cuda_kernels_ssd_hopper.h"

namespace baton::ops::cuda {
namespace {

// Of a multiprocessor's shared memory, so that no two blocks share one.
constexpr unsigned kMoreThanHalf = 116 << 10;

jit::TileMap map_rows(const SsdRows& rows, std::int64_t tokens, std::int64_t values) {
  // Rows of a single token may lie any stride apart.
  const std::int64_t stride = tokens == 1 ? values : rows.stride;
  return jit::map_tiles({rows.data, tokens, values, stride}, kSsdChunk);
}

/// The maps of one call's tensors.
struct Maps {
  const SsdSizes& sizes;
  jit::TileMap values(const SsdRows& rows) const {
    return map_rows(rows, sizes.T, sizes.H * sizes.P);
  }
  jit::TileMap keys(const SsdRows& rows) const {
    return map_rows(rows, sizes.T, sizes.G * sizes.N);
  }
  /// A dense tensor [T, H, P].
  jit::TileMap dense_values(const void* data) const {
    return values({data, sizes.H * sizes.P, true});
  }
};

jit::LaunchShape shape_of(const SsdKernel& kernel, unsigned blocks, unsigned rows = 1) {
  return {
      .grid = {blocks, rows, 1},
      .block = {kernel.threads, 1, 1},
      .shared_bytes = kernel.shared_bytes};
}

} // namespace

bool takes_hopper(
    const Launcher& launcher,
    at::ScalarType dtype,
    const SsdSizes& sizes,
    std::initializer_list<const SsdTokens*> tokens) {
  return dtype == at::kBFloat16 && sizes.P == kHeadColumns && (sizes.N == 64 || sizes.N == 128) &&
         sizes.T > 0 && sizes.B > 0 &&
         std::ranges::all_of(tokens, [](const SsdTokens* rows) { return rows->rows.packed; }) &&
         launcher.arch() == kHopperArch;
}

void launch_hopper_forward(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdTime& time,
    const SsdForwardInputs& inputs,
    const SsdRows* z,
    at::Tensor& y,
    float* leaving) {
  const SsdKernel kernel =
      ssd_hopper_kernel(plan.sizes.N, z != nullptr, inputs.convolution.weight != nullptr);
  const Maps maps{plan.sizes};
  const jit::TileMap y_map = maps.dense_values(y.const_data_ptr());
  jit::LaunchShape shape = shape_of(kernel, plan.blocks());
  // With the launch that makes the states of segments, or B and C.
  shape.overlaps = plan.cut() || inputs.convolution.weight != nullptr;
  // Its blocks would gather in pairs on the multiprocessors that are free first.
  if (shape.overlaps && plan.blocks() <= launcher.multiprocessors()) {
    shape.shared_bytes = std::max(shape.shared_bytes, kMoreThanHalf);
  }
  launcher.launch(
      kernel.spec,
      shape,
      plan.layout(),
      time.inputs,
      inputs,
      y.mutable_data_ptr(),
      leaving,
      maps.values(inputs.x),
      maps.keys(inputs.B),
      maps.keys(inputs.C),
      y_map,
      z == nullptr ? y_map : maps.values(*z));
}

void launch_hopper_sweep(
    const Launcher& launcher,
    const SsdPlan& plan,
    const std::vector<SsdSweep>& sweeps) {
  // Blocks of half a state where whole ones leave multiprocessors with one block each.
  const std::int64_t sequences = plan.sizes.B;
  const std::int64_t segments = plan.cut() ? plan.segments() - sequences : sequences;
  std::int64_t busy = 0;
  for (const SsdSweep& sweep : sweeps) {
    busy += (segments - (sweep.outputs.skip_last ? sequences : 0)) * plan.sizes.H;
  }
  const auto walks = static_cast<unsigned>(sweeps.size());
  const bool halves = busy < SsdPlan::kTwoBlocksEach || plan.sizes.N == 64;
  const std::int64_t columns = halves ? 64 : 128;
  const SsdKernel kernel = ssd_hopper_sweep_kernel(columns);
  const Maps maps{plan.sizes};
  const SsdSweep& first = sweeps.front();
  const SsdSweep& last = sweeps.back();
  launcher.launch(
      kernel.spec,
      shape_of(kernel, plan.blocks() * static_cast<unsigned>(plan.sizes.N / columns), walks),
      plan.layout(),
      first.walk.time.inputs,
      walks_of(sweeps),
      maps.values(first.walk.values.rows),
      maps.keys(first.walk.keys.rows),
      maps.values(last.walk.values.rows),
      maps.keys(last.walk.keys.rows));
}

void launch_hopper_gradients(
    const Launcher& launcher,
    const SsdPlan& plan,
    const SsdHopperOperands& operands,
    const SsdGradientOutputs& outputs) {
  const SsdKernel kernel = ssd_hopper_gradients_kernel(plan.sizes.N);
  const Maps maps{plan.sizes};
  const long long items = plan.chunks() * plan.sizes.G * outputs.parts;
  launcher.launch(
      kernel.spec,
      shape_of(kernel, static_cast<unsigned>(std::min(items, launcher.multiprocessors()))),
      plan.layout(),
      operands.time.inputs,
      SsdHopperGradientInputs{
          static_cast<const unsigned char*>(operands.states.const_data_ptr()),
          static_cast<const unsigned char*>(operands.dstates.const_data_ptr()),
          operands.skip.inputs},
      outputs,
      items,
      maps.values(operands.x.rows),
      maps.values(operands.dy.rows),
      maps.keys(operands.keys.rows),
      maps.keys(operands.queries.rows),
      maps.values({outputs.dx, outputs.dx_stride, true}));
}

} // namespace baton::ops::cuda
