# SPDX-License-Identifier: Apache-2.0
"""Stands in for causal_conv1d's extension module: the same functions, from tools/fetch_peers' build."""

import pathlib

import torch

torch.ops.load_library(pathlib.Path(__file__).with_name("libcausal_conv1d_ops.so"))
causal_conv1d_fwd = torch.ops.causal_conv1d_peer.causal_conv1d_fwd
causal_conv1d_bwd = torch.ops.causal_conv1d_peer.causal_conv1d_bwd
causal_conv1d_update = torch.ops.causal_conv1d_peer.causal_conv1d_update
