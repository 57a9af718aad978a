# SPDX-License-Identifier: Apache-2.0
"""One row of the benchmark: inputs, Baton's call, the peers' calls, and what the work must cost."""

import dataclasses
import functools
from collections.abc import Callable

import torch

# Inputs are drawn from named tensors; a call is made of them ahead of the clock, and then timed.
Inputs = dict[str, torch.Tensor | None]
Prepare = Callable[[Inputs], Callable[[], tuple]]


@dataclasses.dataclass(eq=False)
class Case:
    """What is timed. `small` is the same work in a size that the CPU can judge in fp64."""

    name: str
    operators: tuple[str, ...]
    make: Callable[[str], Inputs]
    ours: Prepare
    peers: dict[str, Prepare] = dataclasses.field(default_factory=dict)
    bytes: float = 0.0
    flops: float = 0.0
    between: float = 0.0  # bytes that passes between products read and write, and nothing hides
    graph: bool = False  # launches are replayed from a CUDA graph, since the host takes longer
    small: "Case | None" = None


def randn(device, *shape, dtype=torch.bfloat16, scale=1.0):
    if device == "meta":
        return torch.empty(*shape, dtype=dtype, device=device)
    return torch.randn(*shape, dtype=dtype, device=device).mul_(scale)


def even_starts(device, sequences, length):
    return torch.arange(0, (sequences + 1) * length, length, dtype=torch.int32, device=device)


def leaves(inputs, names):
    """Copies that gradients are taken of, without the memory of a copy."""
    return [inputs[name].detach().requires_grad_() for name in names]


def size_of(inputs):
    """Bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in inputs.values() if t is not None)


def has_cuda_kernel(operator):
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"baton::{operator}", "CUDA")


def registered(operator):
    return f"baton::{operator}" in torch._C._dispatch_get_all_op_names()


def missing(case, device):
    """The first operator of a case that the device has no kernel for."""
    for operator in case.operators:
        if not registered(operator):
            return f"{operator} is not registered"
        if device == "cuda" and not has_cuda_kernel(operator):
            return f"{operator} has no CUDA kernel"
    return None


def in_double(inputs):
    """The same numbers for the judge: fp64 on the CPU."""
    def convert(tensor):
        if tensor is None:
            return None
        tensor = tensor.cpu()
        return tensor.double() if tensor.is_floating_point() else tensor.clone()
    return {name: convert(tensor) for name, tensor in inputs.items()}


def copies(inputs):
    return {name: None if t is None else t.clone() for name, t in inputs.items()}


def relative_error(outputs, judged):
    """Largest mean error over the outputs, each relative to the mean size of its values."""
    errors = [((ours.detach().cpu().double() - right.detach()).abs().mean()
               / right.detach().abs().mean()).item()
              for ours, right in zip(outputs, judged)
              if ours is not None and right is not None and right.numel() > 0]
    return max(errors)


@functools.cache
def errors(small, device):
    """Of Baton and of the first peer in a small case: relative to fp64 on the CPU."""
    torch.manual_seed(0)
    inputs = small.make(device)
    judged = small.ours(in_double(inputs))()
    mine = relative_error(small.ours(copies(inputs))(), judged)
    for peer in small.peers.values():
        return mine, relative_error(peer(copies(inputs))(), judged)
    return mine, None
