# SPDX-License-Identifier: Apache-2.0
"""Checks of the drop-ins: one line that names the function, the argument and the rule."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

# What the operators compute in. Half precision goes through fp32, which holds all its values.
COMPUTE_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def shape_is(function: str, name: str, tensor: Tensor, names: str, sizes: Sequence[int]) -> None:
    """Raises ValueError unless `tensor` has these sizes; `names` says what they are."""
    if tuple(tensor.shape) != tuple(sizes):
        raise ValueError(
            f"{function}: {name} must have shape [{names}] = {list(sizes)}, got"
            f" {list(tensor.shape)}"
        )


def dims_are(function: str, name: str, tensor: Tensor, names: str) -> None:
    """Raises ValueError unless `tensor` has as many dims as `names` lists."""
    if tensor.dim() != names.count(",") + 1:
        raise ValueError(
            f"{function}: {name} must have dims [{names}], got shape {list(tensor.shape)}"
        )


def is_floating(function: str, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{function}: {name} must be floating, got {tensor.dtype}")


def is_integral(function: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{function}: {name} must be int32 or int64, got {tensor.dtype}")


def same_device(function: str, x: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError unless every tensor given lies on the device of `x`."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{function}: {name} is on {tensor.device}, x on {x.device}")


def uses_silu(function: str, activation: str | None) -> bool:
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(
            f"{function}: activation must be None, 'silu' or 'swish', got {activation!r}"
        )
    return activation is not None


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype that activations are computed in: theirs if it is one of the operators', else fp32."""
    dtype = tensors[0].dtype
    alike = all(tensor.dtype == dtype for tensor in tensors)
    if alike and dtype in COMPUTE_DTYPES:
        return dtype
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def state_dtype(compute: torch.dtype) -> torch.dtype:
    """The dtype of states and sums beside activations of this dtype."""
    return torch.float64 if compute == torch.float64 else torch.float32


def as_parameter(tensor: Tensor | None, compute: torch.dtype) -> Tensor | None:
    """A parameter in a dtype that operators take beside activations of `compute`."""
    if tensor is None or tensor.dtype == compute:
        return tensor
    return tensor.to(state_dtype(compute))
