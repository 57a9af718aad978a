# SPDX-License-Identifier: Apache-2.0
"""Baton's kernels for PyTorch, on CPU and CUDA, without a build.

Under the names that mamba_ssm and causal-conv1d gave them, gradients included::

    mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined     the scan, and the whole mixer
    selective_state_update, causal_conv1d_update                    one token, in place
    causal_conv1d_fn, causal_conv1d_varlen_states                   the convolution
    rmsnorm_fn, layernorm_fn, RMSNormGated, LayerNormGated          gated norms

``import baton.transformers`` makes transformers' hybrids run on them; ``baton.stand_in.install()``
puts them where ``import mamba_ssm`` and ``import causal_conv1d`` look; ``baton.load(folder)`` is a
whole model. docs/python.md tells of all.

Below them are the operators themselves, under ``torch.ops.baton`` (``baton.ops``), registered by
libbaton_ops.so with schema, autograd, fake-tensor and CPU kernels; where an NVIDIA driver is found
the library opens its CUDA half by itself. They work on packed tokens: ``starts`` is an int32 tensor
[B + 1] that rises from 0 to T and says where each of B sequences begins.

Scan (Mamba-2)      ssd, ssd_backward, ssd_state, ssd_state_grad, ssd_step_
Mixer (Mamba-2)     mamba2_mixer, mamba2_step_
Convolution         causal_conv1d, causal_conv1d_backward, causal_conv1d_step_
Norms               rms_norm, add_rms_norm, gated_norm
Attention           attention, paged_attention, paged_write_, rotary, rotary_frequencies,
                    attention_step_
Feed-forward        linear, matvec, squared_relu, swiglu, dropout, squared_relu_mlp_step,
                    swiglu_mlp_step
Embedding, loss     embedding, cross_entropy, cross_entropy_with_grads
States, training    write_slots_, adamw_, sum_squares

``operators()`` lists what the loaded library holds; ``torch.ops.baton.ssd.default._schema`` prints
one schema.
"""

from __future__ import annotations

from . import _library

_library.load()

import torch  # noqa: E402

from . import stand_in  # noqa: E402
from ._library import library_path  # noqa: E402
from .conv import (  # noqa: E402
    causal_conv1d_fn,
    causal_conv1d_update,
    causal_conv1d_varlen_states,
)
from .model import Model, load  # noqa: E402
from .norm import LayerNormGated, RMSNormGated, layernorm_fn, rmsnorm_fn  # noqa: E402
from .scan import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined  # noqa: E402
from .update import selective_state_update  # noqa: E402

__all__ = [
    "LayerNormGated",
    "Model",
    "RMSNormGated",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "causal_conv1d_varlen_states",
    "layernorm_fn",
    "library_path",
    "load",
    "mamba_chunk_scan_combined",
    "mamba_split_conv1d_scan_combined",
    "operators",
    "ops",
    "rmsnorm_fn",
    "selective_state_update",
    "stand_in",
]

ops = torch.ops.baton


def operators() -> list[str]:
    """Names of the registered operators, sorted: "adamw_", "attention", ..."""
    prefix = "baton::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name[len(prefix) :] for name in names if name.startswith(prefix))
