// SPDX-License-Identifier: Apache-2.0
// For tests: kernels of a compiler that only scrambles its input.
#pragma once

#include <functional>
#include <random>
#include <string>

#include "baton/jit/cache_key.h"
#include "baton/jit/request.h"

namespace baton::jit {

inline constexpr const char* kExampleCompiler = "example 1.0";

/// A request named "scan", whose source holds `text`.
inline CompileRequest example_request(const std::string& text) {
  CompileRequest request;
  request.name = "scan";
  request.source = {"baton/ops/cuda/scan.cu", text};
  request.headers = {{"baton/ops/cuda/tile.cuh", "tile"}, {"baton/ops/cuda/math.cuh", "math"}};
  request.options = {"-DCHUNK=64"};
  request.arch = "sm_90a";
  request.entry = "baton::scan<64>";
  return request;
}

inline std::string example_key(const CompileRequest& request) {
  return cache_key(request, kExampleCompiler);
}

/// 20 to 60 kB that follow from the source's text.
inline CompiledKernel example_kernel(const CompileRequest& request) {
  std::mt19937_64 random(std::hash<std::string>{}(request.source.text));
  CompiledKernel kernel;
  kernel.cubin.resize(20000 + random() % 40000);
  for (char& byte : kernel.cubin) {
    byte = static_cast<char>(random() & 0xff);
  }
  kernel.entry_symbol = "_ZN5baton4scanILi64EEEvv";
  kernel.log = "warning: example";
  kernel.registers = 40;
  kernel.spill_bytes = 8;
  kernel.shared_bytes = 1024;
  kernel.stack_bytes = 16;
  kernel.microseconds = 1500;
  return kernel;
}

} // namespace baton::jit
