# SPDX-License-Identifier: Apache-2.0
"""Baton's operators for PyTorch.

Importing this package loads libbaton_ops.so, which registers every operator under
``torch.ops.baton`` with schema, autograd, fake-tensor and CPU kernels; where an NVIDIA driver is
found the library opens its CUDA half by itself. The operators work on packed tokens: ``starts`` is
an int32 tensor [B + 1] that rises from 0 to T and says where each of B sequences begins.

Scan (Mamba-2)      ssd, ssd_backward, ssd_state, ssd_state_grad, ssd_step_
Convolution         causal_conv1d, causal_conv1d_backward, causal_conv1d_step_
Norms               rms_norm, gated_norm
Attention           attention, paged_attention, paged_write_, rotary, rotary_frequencies
Feed-forward        linear, matvec, squared_relu, swiglu, dropout
Embedding, loss     embedding, cross_entropy, cross_entropy_with_grads
States, training    write_slots_, adamw_, sum_squares

``operators()`` lists what the loaded library holds; ``torch.ops.baton.ssd.default._schema`` prints
one schema. docs/python.md has an example.
"""

from __future__ import annotations

import os
import pathlib

import torch

__all__ = ["library_path", "operators", "ops"]

_NAME = "libbaton_ops.so"
_VARIABLE = "BATON_OPS_LIBRARY"


def library_path() -> pathlib.Path:
    """The operator library: $BATON_OPS_LIBRARY, or beside this package, or in build/baton.

    Raises ImportError with one line that says where it was looked for.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        if not pathlib.Path(named).is_file():
            raise ImportError(f"{_VARIABLE} names no file: {named}")
        return pathlib.Path(named).resolve()
    package = pathlib.Path(__file__).resolve().parent
    candidates = [package / _NAME, package.parent.parent / "build" / "baton" / _NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise ImportError(
        f"{_NAME} not found at {looked}; run `make build`, or set {_VARIABLE} to its path"
    )


def operators() -> list[str]:
    """Names of the registered operators, sorted: "adamw_", "attention", ..."""
    prefix = "baton::"
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name[len(prefix) :] for name in names if name.startswith(prefix))


def _load() -> None:
    path = library_path()
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ImportError(
            f"{path} does not load into torch {torch.__version__}: {reason}"
        ) from error


_load()
ops = torch.ops.baton
