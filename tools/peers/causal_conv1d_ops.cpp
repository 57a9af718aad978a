// SPDX-License-Identifier: Apache-2.0
// Binds causal_conv1d's kernels to PyTorch's dispatcher, so that one build serves every Python: its
// own binding is pybind11's, made for one version. Compiled by tools/fetch_peers against the
// fetched sources, with the two headers of Python that they include left empty.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>
#include <torch/types.h>
#include <torch/version.h>

struct NoPythonModule {
  template <typename... Arguments>
  void def(Arguments&&...) {}
};
#define PYBIND11_MODULE(name, module) [[maybe_unused]] static void no_python(NoPythonModule module)
#include "causal_conv1d.cpp"

namespace {

using Optional = std::optional<at::Tensor>;

void forward(
    const at::Tensor& x,
    const at::Tensor& weight,
    const Optional& bias,
    const Optional& seq_idx,
    const Optional& initial_states,
    at::Tensor out,
    Optional final_states,
    bool silu) {
  causal_conv1d_fwd(x, weight, bias, seq_idx, initial_states, out, final_states, silu);
}

void backward(
    const at::Tensor& x,
    const at::Tensor& weight,
    const Optional& bias,
    at::Tensor dout,
    const Optional& seq_idx,
    const Optional& initial_states,
    const Optional& dfinal_states,
    at::Tensor dx,
    at::Tensor dweight,
    Optional dbias,
    Optional dinitial_states,
    bool silu) {
  causal_conv1d_bwd(
      x,
      weight,
      bias,
      dout,
      seq_idx,
      initial_states,
      dfinal_states,
      dx,
      dweight,
      dbias,
      dinitial_states,
      silu);
}

void update(
    const at::Tensor& x,
    at::Tensor conv_state,
    const at::Tensor& weight,
    const Optional& bias,
    at::Tensor out,
    bool silu,
    const Optional& cache_seqlens,
    const Optional& conv_state_indices) {
  causal_conv1d_update(x, conv_state, weight, bias, out, silu, cache_seqlens, conv_state_indices);
}

} // namespace

TORCH_LIBRARY(causal_conv1d_peer, library) {
  library.def(
      "causal_conv1d_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? "
      "initial_states, Tensor(a!) out, Tensor(b!)? final_states, bool silu) -> ()",
      forward);
  library.def(
      "causal_conv1d_bwd(Tensor x, Tensor weight, Tensor? bias, Tensor dout, Tensor? seq_idx, "
      "Tensor? initial_states, Tensor? dfinal_states, Tensor(a!) dx, Tensor(b!) dweight, "
      "Tensor(c!)? dbias, Tensor(d!)? dinitial_states, bool silu) -> ()",
      backward);
  library.def(
      "causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, "
      "Tensor(b!) out, bool silu, Tensor? cache_seqlens, Tensor? conv_state_indices) -> ()",
      update);
}
