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
@pytest.mark.parametrize("requires_grad", [False, True])
def test_gated_ssd(lengths, requires_grad):
    inputs = make_inputs(lengths, requires_grad=requires_grad)
    z = torch.randn_like(inputs[0]).requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.baton.ssd.default, tuple(inputs), {"z": z})


def make_mixer_inputs(lengths, norm, requires_grad):
    """projected to norm_weight, and the mixer's options."""
    starts = make_inputs(lengths)[-1]
    conv = H * P + 2 * G * N
    tensors = [
        torch.randn(sum(lengths), H * P + conv + H),
        torch.randn(conv, 4),
        torch.randn(conv) if norm else None,
        -torch.rand(H) - 0.1,
        starts,
        torch.randn(H) if norm else None,
        torch.randn(H),
        torch.rand(H * P) if norm else None,
    ]
    for i, tensor in enumerate(tensors):
        if tensor is not None and i != 4:
            tensor.requires_grad_(requires_grad)
    return tensors, (G, 1e-5, H * P // G, norm == "first", 0.0, 2.0)


@pytest.mark.parametrize("lengths", LAYOUTS)
@pytest.mark.parametrize("norm", ["", "first", "last"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_mixer(lengths, norm, requires_grad):
    tensors, options = make_mixer_inputs(lengths, norm, requires_grad)
    torch.library.opcheck(torch.ops.baton.mamba2_mixer.default, (*tensors, *options))


@pytest.mark.parametrize("lengths", LAYOUTS)
@pytest.mark.parametrize("norm", ["", "first"])
def test_mixer_backward(lengths, norm):
    tensors, options = make_mixer_inputs(lengths, norm, False)
    dout, y = torch.randn(sum(lengths), H * P), torch.randn(sum(lengths), H * P)
    convolved = torch.randn(sum(lengths), H * P + 2 * G * N)
    op = torch.ops.baton.mamba2_mixer_backward.default
    torch.library.opcheck(op, (dout, y, convolved, *tensors, *options))


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


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mamba2_step(rows, dtype):
    width, conv = 12, H * P + 2 * G * N
    wide = torch.promote_types(dtype, torch.float32)

    def rand(*shape, dtype=dtype):
        return torch.randn(*shape).to(dtype)

    arguments = (
        rand(rows, width),
        rand(width),
        rand(H * P + conv + H, width),
        None,
        rand(conv, 4),
        rand(conv),
        rand(H, dtype=wide),
        rand(H, dtype=wide),
        rand(H, dtype=wide),
        rand(H * P),
        rand(width, H * P),
        None,
        rand(rows + 1, conv, 3, dtype=wide),
        rand(rows + 1, H, P, N, dtype=wide),
        torch.arange(rows, dtype=torch.int32),
        G,
    )
    options = {"norm_group_size": H * P // G, "dt_max": 2.0, "scale": 0.5}
    torch.library.opcheck(torch.ops.baton.mamba2_step_.default, arguments, options)


def test_forward_only_operators_refuse_gradients():
    x, dt, A, B, C, starts = make_inputs([3])
    with pytest.raises(RuntimeError, match="has no derivative"):
        torch.ops.baton.ssd_state(x, dt, A, B, starts)
    with torch.no_grad():
        torch.ops.baton.ssd_state(x, dt, A, B, starts)


@pytest.mark.parametrize("norm", ["", "first", "last"])
def test_gradients_of_the_mixer_by_finite_differences(norm):
    tensors, options = make_mixer_inputs([3, 0, 2], norm, False)
    tensors = [
        tensor.double().requires_grad_()
        if tensor is not None and tensor.is_floating_point()
        else tensor
        for tensor in tensors
    ]
    assert torch.autograd.gradcheck(
        lambda *tensors: torch.ops.baton.mamba2_mixer(*tensors, *options), tensors
    )


def test_gradients_by_finite_differences():
    inputs = [
        tensor.detach().double().requires_grad_() if tensor.is_floating_point() else tensor
        for tensor in make_inputs([3, 0, 2])
    ]
    states = torch.randn(3, H, P, N, dtype=torch.float64, requires_grad=True)

    def scan(*tensors):
        return torch.ops.baton.ssd(*tensors[:5], inputs[5], None, None, tensors[5])

    assert torch.autograd.gradcheck(scan, (*inputs[:5], states))
