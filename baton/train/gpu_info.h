// SPDX-License-Identifier: Apache-2.0
// What a plan knows of a kind of GPU and of the wires between them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton::train {

/// What one GPU can send at once while it receives as much.
struct LinkInfo {
  double bytes_per_second = 0.0;
  double latency = 0.0; ///< seconds of a message without bytes
};

/// Rates are those that a training step reaches, not those of a data sheet, except `peak`. All
/// constants of the predictions stand here; gpu_info.cpp says where each is from.
struct GpuInfo {
  std::string name;
  double memory = 0.0; ///< bytes
  double peak = 0.0;   ///< dense bf16 operations a second of the data sheet: what utilisation is of
  int processors = 0;  ///< multiprocessors, over which the tiles of a product are spread
  double product = 0.0;       ///< bf16 operations a second of a product that fills all of them
  double fp32_product = 0.0;  ///< the same in fp32, without TF32
  double passes = 0.0;        ///< bytes a second of kernels that read and write each value once
  double update = 0.0;        ///< the same of the optimizer
  double scan = 0.0;          ///< operations a second of many heads and sequences
  double scan_sparse = 0.0;   ///< with fewer than 1.5 of them a multiprocessor
  double scan_backward = 0.0; ///< of three times the forward's operations
  double sweep_share = 0.0;   ///< `ssd_state` over the whole scan, in time
  double attention = 0.0;     ///< operations a second
  double attention_backward = 0.0; ///< of 2.5 times the forward's operations
  double attention_far = 0.0;      ///< share of these where a document's keys are more than a cache
  double cache = 0.0;              ///< bytes
  double gaps_per_layer = 0.0; ///< seconds of both passes between kernels and in their last blocks
  double host_per_layer = 0.0; ///< seconds that the host needs to launch both passes of a layer
  double host_per_shared_layer = 0.0; ///< the same where cp ranks share its tokens
  double stage_pass = 0.0;    ///< seconds of a microbatch's pass through a stage beyond its layers
  double hidden = 0.0;        ///< share of a hidden message's time that the work beside it loses
  double runtime = 0.0;       ///< bytes of driver, libraries and their workspaces
  double group_runtime = 0.0; ///< bytes of NCCL's buffers, for each group with collectives
  double exchange_runtime = 0.0; ///< the same for each with messages from rank to rank
  double slack = 0.0;            ///< share of activations that the allocator loses to gaps
  int gpus_per_node = 0;
  LinkInfo nvlink;  ///< inside of a node
  LinkInfo network; ///< beyond, for each GPU
};

/// All that are known, in the order in which they are listed to people.
const std::vector<GpuInfo>& known_gpus();

/// Throws `Error` that names the known ones, and the nearest, for another name.
const GpuInfo& find_gpu(const std::string& name);

} // namespace baton::train
