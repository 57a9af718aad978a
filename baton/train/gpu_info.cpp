// SPDX-License-Identifier: Apache-2.0
#include "baton/train/gpu_info.h"

#include "baton/base/error.h"
#include "baton/base/nearest.h"

namespace baton::train {
namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;
constexpr double kMebibyte = 1024.0 * 1024.0;

// Measured ones are from docs/benchmarks/2026-11-26-h100.md, H100 80GB HBM3: rates of kernels on
// one, and what was fitted to training 448M and 2.04G parameters ("fitted") on one and on two of
// one host. Nothing was measured over several nodes: the network's rate is a data sheet's times the
// share that collectives usually reach of it.
GpuInfo h100() {
  return {
      .name = "h100",
      .memory = 81559 * kMebibyte, // what nvidia-smi reports
      .peak = 989 * kTera,         // H100 SXM data sheet
      .processors = 132,
      .product = 740 * kTera,            // 0.95 of 8192 x 8192 x 8192 measured alone, 779
      .fp32_product = 50 * kTera,        // data sheet: 67
      .passes = 2.58e12,                 // the median of norms, gates, activations, convolution
      .update = 2.97e12,                 // adamw_, bf16, fp32 master and moments
      .scan = 345 * kTera,               // ssd forward, b4 L4096 H64: 0.1741 ms
      .scan_sparse = 248 * kTera,        // b1 L8192 H128: 0.252 ms; b1 L65536 H64: 0.9374 ms
      .scan_backward = 225 * kTera,      // 0.7627 ms, 3.249 ms; b4 L4096 H64: 0.8095 ms
      .sweep_share = 0.31,               // ssd_state over ssd, b1 L65536 H64: 0.2892 over 0.9374 ms
      .attention = 266 * kTera,          // b2 L4096 and b1 L8192: 264, 269
      .attention_backward = 236 * kTera, // the same: 222, 251
      .attention_far = 0.8,              // train_context_parallel_bench, "M-M*", 131,072 tokens
      .cache = 50 * kMebibyte,           // L2, data sheet
      .gaps_per_layer = 0.15e-3,         // fitted to one GPU's steps
      .host_per_layer = 0.9e-3,          // a small model's step, 9 layers, 2 microbatches: 16.8 ms
      .host_per_shared_layer = 2.1e-3,   // 448M, cp 2, mixed documents, two machines: 1.8, 2.6 ms
      .stage_pass = 1.5e-3,              // fitted to pp 2
      .hidden = 0.35,                    // fitted to dp 2 and cp 2
      .runtime = 717 * kMebibyte,        // fitted to one GPU's steps, as the next three to ranks'
      .group_runtime = 820 * kMebibyte,
      .exchange_runtime = 665 * kMebibyte,
      .slack = 0.011,
      .gpus_per_node = 8,
      // NVLink 4, two GPUs, all-gather and reduce-scatter: 208 and 211 GB/s with 64 MiB, 16 and 17
      // with 1 MiB.
      .nvlink = {.bytes_per_second = 210 * kGiga, .latency = 40e-6},
      // One 400 Gb/s adapter a GPU, as in a DGX H100; 0.85 of it. Assumed.
      .network = {.bytes_per_second = 42 * kGiga, .latency = 60e-6}};
}

// The same chip beside larger and faster memory: 4.8 instead of 3.35 TB/s by the data sheets.
GpuInfo h200() {
  GpuInfo gpu = h100();
  constexpr double kMemoryRatio = 4.8 / 3.35;
  gpu.name = "h200";
  gpu.memory = 143771 * kMebibyte; // what nvidia-smi reports
  gpu.passes *= kMemoryRatio;
  gpu.update *= kMemoryRatio;
  return gpu;
}

} // namespace

const std::vector<GpuInfo>& known_gpus() {
  static const std::vector<GpuInfo> gpus{h100(), h200()};
  return gpus;
}

const GpuInfo& find_gpu(const std::string& name) {
  std::vector<std::string> names;
  std::string listed;
  for (const GpuInfo& gpu : known_gpus()) {
    if (gpu.name == name) {
      return gpu;
    }
    names.push_back(gpu.name);
    listed += (listed.empty() ? "" : ", ") + gpu.name;
  }
  const std::string nearest = nearest_name(name, names);
  throw Error(
      "unknown GPU '" + name + "'" + (nearest.empty() ? "" : ", did you mean '" + nearest + "'?") +
      "; known: " + listed);
}

} // namespace baton::train
