# SPDX-License-Identifier: Apache-2.0
"""The scan's operators as PyTorch sees them: schema, autograd, fake tensors, AOT; and a first use."""

import os
import pathlib

import pytest
import torch

_ROOT = pathlib.Path(__file__).resolve().parents[2]
torch.ops.load_library(
    os.environ.get("BATON_OPS_LIBRARY", str(_ROOT / "build" / "baton" / "libbaton_ops.so"))
)

H, P, G, N = 4, 8, 2, 16


def make_inputs(lengths, dtype=torch.float32, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(lengths)

    def rand(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    starts = torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])
    tensors = [
        rand(tokens, H, P),
        rand(tokens, H),
        -torch.rand(H, generator=generator) - 0.1,
        rand(tokens, G, N),
        rand(tokens, G, N),
    ]
    tensors = [tensor.requires_grad_(requires_grad) for tensor in tensors]
    return [*tensors, starts.to(torch.int32)]


def make_states(count, requires_grad=True):
    return torch.randn(count, H, P, N).requires_grad_(requires_grad)


LAYOUTS = [[0], [1], [70], [5, 0, 66, 0]]


@pytest.mark.parametrize("lengths", LAYOUTS)
@pytest.mark.parametrize("with_options", [False, True])
def test_ssd(lengths, with_options):
    inputs = make_inputs(lengths)
    options = {}
    if with_options:
        options = {
            "D": torch.randn(H, requires_grad=True),
            "dt_bias": torch.randn(H, requires_grad=True),
            "initial_states": make_states(3),
            "initial_slots": torch.tensor([i % 4 - 1 for i in range(len(lengths))]).int(),
            "dt_max": 2.0,
        }
    torch.library.opcheck(torch.ops.baton.ssd.default, tuple(inputs), options)


@pytest.mark.parametrize("lengths", LAYOUTS)
def test_ssd_backward(lengths):
    inputs = make_inputs(lengths, requires_grad=False)
    dfinal = make_states(len(lengths), requires_grad=False)
    dy = torch.randn_like(inputs[0])
    op = torch.ops.baton.ssd_backward.default
    torch.library.opcheck(op, (dy, None, *inputs))
    options = {"D": torch.randn(H, P), "initial_states": torch.zeros_like(dfinal)}
    torch.library.opcheck(op, (dy, dfinal, *inputs), options)


@pytest.mark.parametrize("lengths", LAYOUTS)
def test_states(lengths):
    x, dt, A, B, C, starts = make_inputs(lengths, requires_grad=False)
    torch.library.opcheck(torch.ops.baton.ssd_state.default, (x, dt, A, B, starts))
    torch.library.opcheck(torch.ops.baton.ssd_state_grad.default, (x, dt, A, C, starts))


def test_step():
    x, dt, A, B, C, _ = make_inputs([3], requires_grad=False)
    states = make_states(4, requires_grad=False)
    slots = torch.tensor([2, -1, 0], dtype=torch.int32)
    torch.library.opcheck(torch.ops.baton.ssd_step_.default, (x, dt, A, B, C, states, slots))


def test_forward_only_operators_refuse_gradients():
    x, dt, A, B, C, starts = make_inputs([3])
    with pytest.raises(RuntimeError, match="has no derivative"):
        torch.ops.baton.ssd_state(x, dt, A, B, starts)
    with torch.no_grad():
        torch.ops.baton.ssd_state(x, dt, A, B, starts)


def test_gradients_by_finite_differences():
    inputs = [
        tensor.detach().double().requires_grad_() if tensor.is_floating_point() else tensor
        for tensor in make_inputs([3, 0, 2])
    ]
    states = torch.randn(3, H, P, N, dtype=torch.float64, requires_grad=True)

    def scan(*tensors):
        return torch.ops.baton.ssd(*tensors[:5], inputs[5], None, None, tensors[5])

    assert torch.autograd.gradcheck(scan, (*inputs[:5], states))
